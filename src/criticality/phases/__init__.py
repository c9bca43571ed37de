"""Phases of deep networks: how log J grows with depth, for any depth, and why."""

from criticality.moved import renamed_names
from criticality.phases.asymptotics import (
    ExponentialLaw,
    PowerLaw,
    StretchedGrowth,
    StretchedLaw,
    crossover_depth,
    crossover_depth_small_alpha,
    law_of,
    layer_norm_critical_bias,
    layer_norm_exponent,
    layer_norm_exponent_with_attention,
    layer_norm_susceptibility,
    linear_rate,
    saturated_correlation,
    stretched_growth,
    stretched_scale,
)
from criticality.phases.classification import Classification, classify
from criticality.phases.depth import BlockStep, ResidualStep, amplification
from criticality.phases.fixed_points import FixedPoint, critical_line, fixed_point_of
from criticality.phases.maps import collapse_map, exponents_map, transformer_map
from criticality.phases.planes import Plane, amplification_map
from criticality.phases.tails import Tail, tail_of
from criticality.phases.zoo import ZOO, zoo_function, zoo_table

__getattr__ = renamed_names(__name__)

__all__ = [
    "ZOO",
    "BlockStep",
    "Classification",
    "ExponentialLaw",
    "FixedPoint",
    "Plane",
    "PowerLaw",
    "ResidualStep",
    "StretchedGrowth",
    "StretchedLaw",
    "Tail",
    "amplification",
    "amplification_map",
    "classify",
    "collapse_map",
    "critical_line",
    "crossover_depth",
    "crossover_depth_small_alpha",
    "exponents_map",
    "fixed_point_of",
    "law_of",
    "layer_norm_critical_bias",
    "layer_norm_exponent",
    "layer_norm_exponent_with_attention",
    "layer_norm_susceptibility",
    "linear_rate",
    "saturated_correlation",
    "stretched_growth",
    "stretched_scale",
    "tail_of",
    "transformer_map",
    "zoo_function",
    "zoo_table",
]
