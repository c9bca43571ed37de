"""Closed forms of pre-norm blocks of attention and ReLU MLP, equivalent tokens, many of them.

A block adds ``s_VO`` times the mean of the normalized tokens and an MLP of gain ``m = sigma_1^2 sigma_2^2``; ``m/2`` is its
variance and the slope of its map. Equations: docs/theory, section 7.
"""

from __future__ import annotations

import math

import numpy as np

from criticality.arguments import Positive, Scale, check, checked
from criticality.errors import ArgumentError
from criticality.lazy import lazy_module
from criticality.phases.tails import slope_diverges, tail_of
from criticality.pointwise import PointwiseFunction, get_function

optimize = lazy_module("scipy.optimize")


@checked
def layer_norm_exponent_with_attention(value_output_variance: Scale, mlp_variance: Scale) -> float:
    """``zeta = (m/2) / (m/2 + s_VO)`` of ``J ~ L^zeta`` in pre-LN blocks at ``T -> infinity``.

    It is the exponent of the difference mode of the tokens; at finite ``T`` their common mode, of exponent 1, takes over at a depth
    of order ``T^(1 / (1 - zeta))`` at the latest.

    Args:
        value_output_variance: ``s_VO = sigma_V^2 sigma_O^2``.
        mlp_variance: ``m = sigma_1^2 sigma_2^2``.

    Raises:
        ValueError: a negative variance, or both 0.
    """
    _check(value_output_variance, mlp_variance)
    return (mlp_variance / 2) / (mlp_variance / 2 + value_output_variance)


@checked
def saturated_correlation(value_output_variance: Scale, mlp_variance: Scale) -> tuple[float, float]:
    """``(c*, p*)``: the correlation of tokens at great depth with an odd bounded norm, and that of the norm's outputs.

    A bounded odd function at great variance is a sign, ``p* = (2/pi) asin c*``, and ``c*`` is the lower root of
    ``c = (s P + m kappa(P)) / (s P + m/2)``, ``P = (2/pi) asin c``, with ReLU's ``kappa``.  ``P`` has an infinite slope at 1, so
    that the root ``c = 1`` is unstable.

    Raises:
        ValueError: as ``layer_norm_exponent_with_attention``; ``m = 0``, for which tokens become equal, ``c* = 1``.
    """
    _check(value_output_variance, mlp_variance)
    if mlp_variance == 0:
        return 1.0, 1.0
    s, m = value_output_variance, mlp_variance

    def excess(c: float) -> float:
        p = 2 / math.pi * math.asin(c)
        kappa = (math.sqrt(1 - p * p) + p * (math.pi - math.acos(p))) / (2 * math.pi)
        return (s * p + m * kappa) - c * (s * p + m / 2)

    # near 1 the excess is negative, as (1 - P) ~ (1 - c)^(1/2) and kappa's own slope is finite
    high = 1.0
    for digit in range(1, 16):
        if excess(1 - 10.0**-digit) < 0:
            high = 1 - 10.0**-digit
            break
    if high == 1.0:
        return 1.0, 1.0  # nearer to it than double precision tells
    c = float(optimize.brentq(excess, 0.0, high, xtol=1e-15, rtol=1e-14))
    return c, 2 / math.pi * math.asin(c)


@checked
def stretched_scale(
    value_output_variance: Scale,
    mlp_variance: Scale,
    alpha: Positive = 1.0,
    function: PointwiseFunction | str = "erf",
    tokens: float = math.inf,
) -> float:
    """``lambda`` of ``log J ~ sqrt(L / lambda)``, ``L`` in blocks, for an odd bounded norm ``phi(alpha x)``.

    ``lambda = 2 pi (m/2 + s p*) / (alpha m I')^2`` with ``I' = int phi'^2 / phi_inf``, which is ``8/pi`` squared for erf:
    ``lambda = (m/2 + s p*) / ((2 alpha/pi)^2 m^2)``; for tanh ``I' = 4/3``.  With ``tokens`` the gain of attention's diagonal is
    added, ``m -> m + 2 s/T``; the change of ``p*`` with ``T`` is left out, so that it is the first order in ``1/T``.

    Raises:
        ValueError: as ``saturated_correlation``; ``alpha`` or ``tokens`` not positive; a norm that is not bounded, or whose
            two bounds are not opposite; ``m = 0`` with infinitely many tokens, where nothing grows as a stretched exponential.
    """
    check(Positive, "alpha", alpha)
    if tokens != math.inf:
        check(Positive, "tokens", tokens)
    phi = get_function(function) if isinstance(function, str) else function
    tail = tail_of(phi)
    if tail.growth != "bounded" or not math.isfinite(tail.slope_integral) or slope_diverges(phi):
        raise ArgumentError(f"function {phi.name!r} must be bounded with a square-integrable slope")
    left, right = (float(phi.value(np.array([end]))[0]) for end in (-1e9, 1e9))
    if abs(left + right) > 1e-9 * tail.scale:
        raise ArgumentError(f"function {phi.name!r} must have opposite bounds, but comes to {left:g} and {right:g}")
    _, p = saturated_correlation(value_output_variance, mlp_variance)
    gain = alpha * tail.slope_integral / tail.scale * (mlp_variance + 2 * value_output_variance / tokens)
    if gain == 0:
        raise ArgumentError(f"mlp_variance={mlp_variance!r} must be above 0 for infinitely many tokens")
    return 2 * math.pi * (mlp_variance / 2 + value_output_variance * p) / gain**2


def _check(value_output_variance: float, mlp_variance: float) -> None:
    check(Scale, "value_output_variance", value_output_variance)
    check(Scale, "mlp_variance", mlp_variance)
    if value_output_variance == mlp_variance == 0:
        raise ArgumentError("mlp_variance=0.0 must be above 0 where value_output_variance is 0, or nothing grows")
