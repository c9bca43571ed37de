"""What log J comes to at great depth, in closed form: no recursion is run here."""

from criticality.phases.asymptotics.attention import (
    layer_norm_exponent_with_attention,
    saturated_correlation,
    stretched_scale,
)
from criticality.phases.asymptotics.blocks import block_crossover_depth, power_law, stretched_law
from criticality.phases.asymptotics.laws import ExponentialLaw, Law, PowerLaw, StretchedLaw
from criticality.phases.asymptotics.of_network import law_of
from criticality.phases.asymptotics.one_branch import (
    StretchedGrowth,
    crossover_depth,
    crossover_depth_small_alpha,
    layer_norm_critical_bias,
    layer_norm_exponent,
    layer_norm_susceptibility,
    linear_rate,
    stretched_growth,
)

__all__ = [
    "ExponentialLaw",
    "Law",
    "PowerLaw",
    "StretchedGrowth",
    "StretchedLaw",
    "block_crossover_depth",
    "crossover_depth",
    "crossover_depth_small_alpha",
    "law_of",
    "layer_norm_critical_bias",
    "layer_norm_exponent",
    "layer_norm_exponent_with_attention",
    "layer_norm_susceptibility",
    "linear_rate",
    "power_law",
    "saturated_correlation",
    "stretched_growth",
    "stretched_law",
    "stretched_scale",
]
