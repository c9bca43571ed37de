"""Mean-field theory at infinite width; float64, no torch."""

from criticality.moved import renamed_names
from criticality.theory.attention import HeadNorm, Rotary, ScoreSampling
from criticality.theory.branches import MLP, Attention, GatedMLP, Linear, Normed, Parallel
from criticality.theory.collapse import CollapseExponents, collapse_exponents
from criticality.theory.edits import (
    Alpha,
    AlphaGain,
    BranchGain,
    Edit,
    OtherNorm,
    Schedule,
    WeightGain,
    alphas_of,
    edited,
    read_edits,
    write_edits,
)
from criticality.theory.finite_width import LogVariance, log_apjn_variance
from criticality.theory.kernels import SymmetricKernel, TokenKernel
from criticality.theory.layer import Layer
from criticality.theory.network import Network, Sublayer, mean_network, resnet, transformer
from criticality.theory.norms import LayerNorm, NoNorm, Norm, PointwiseNorm, RMSNorm, make_norm
from criticality.theory.propagation import propagate, propagate_between

__getattr__ = renamed_names(__name__)

__all__ = [
    "MLP",
    "Alpha",
    "AlphaGain",
    "Attention",
    "BranchGain",
    "CollapseExponents",
    "Edit",
    "GatedMLP",
    "HeadNorm",
    "Layer",
    "LayerNorm",
    "Linear",
    "LogVariance",
    "Network",
    "NoNorm",
    "Norm",
    "Normed",
    "OtherNorm",
    "Parallel",
    "PointwiseNorm",
    "RMSNorm",
    "Rotary",
    "Schedule",
    "ScoreSampling",
    "Sublayer",
    "SymmetricKernel",
    "TokenKernel",
    "WeightGain",
    "alphas_of",
    "collapse_exponents",
    "edited",
    "log_apjn_variance",
    "make_norm",
    "mean_network",
    "propagate",
    "propagate_between",
    "read_edits",
    "resnet",
    "transformer",
    "write_edits",
]
