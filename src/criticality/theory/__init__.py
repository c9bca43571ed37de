"""Mean-field theory at infinite width; float64, no torch."""

from criticality.theory.attention import ScoreSampling
from criticality.theory.branches import MLP, Attention, Linear
from criticality.theory.kernels import SymmetricKernel, TokenKernel
from criticality.theory.network import Network, Sublayer, resnet, transformer
from criticality.theory.norms import LayerNorm, NoNorm, PointwiseNorm, RMSNorm, make_norm
from criticality.theory.propagation import propagate

__all__ = [
    "MLP",
    "Attention",
    "LayerNorm",
    "Linear",
    "Network",
    "NoNorm",
    "PointwiseNorm",
    "RMSNorm",
    "ScoreSampling",
    "Sublayer",
    "SymmetricKernel",
    "TokenKernel",
    "make_norm",
    "propagate",
    "resnet",
    "transformer",
]
