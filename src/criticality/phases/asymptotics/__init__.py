"""What log J comes to at great depth, in closed form: no recursion is run here."""

from criticality.phases.asymptotics.attention import (
    layer_norm_exponent_with_attention,
    saturated_correlation,
    stretched_scale,
)
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
    "StretchedGrowth",
    "crossover_depth",
    "crossover_depth_small_alpha",
    "layer_norm_critical_bias",
    "layer_norm_exponent",
    "layer_norm_exponent_with_attention",
    "layer_norm_susceptibility",
    "linear_rate",
    "saturated_correlation",
    "stretched_growth",
    "stretched_scale",
]
