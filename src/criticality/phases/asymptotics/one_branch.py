"""Closed forms of ``x <- mu x + W phi(alpha x) + b`` and ``x <- mu x + W phi(LayerNorm x) + b``.

Equations and notation: docs/theory, section 7.  ``V = E phi^2``, ``D = E phi'^2`` of a Gaussian, ``I = int phi'^2``, ``phi_inf``
the root mean square of ``phi`` at both infinities, ``A = int (phi(+-inf)^2 - phi^2) / phi_inf^2``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from criticality.arguments import Finite, Positive, Scale, Start, check, checked
from criticality.errors import ArgumentError
from criticality.lazy import lazy_module
from criticality.phases.tails import saturation_deficit, slope_diverges, tail_of
from criticality.pointwise import Pointwise, PointwiseFunction

integrate = lazy_module("scipy.integrate")


@dataclass(frozen=True)
class StretchedGrowth:
    """``log J(0 -> L) = rate sqrt(L) + logarithm log L + O(1)`` of a bounded function.

    Attributes:
        rate: ``2 alpha sigma^2 I / sqrt(2 pi g)`` with ``g = sigma^2 phi_inf^2 + sigma_b^2``, what a layer adds to ``K``.
        logarithm: ``b = sigma^4 phi_inf^2 A I / (2 pi g^2) - (alpha sigma^2 I)^2 / (4 pi g)``; nan where ``A`` is infinite
            (``phi`` comes to its bound no faster than ``1/x``: then the next order is ``(log L)^2``).
    """

    rate: float
    logarithm: float


@checked
def stretched_growth(
    function: PointwiseFunction, alpha: Positive = 1.0, weight_variance: Scale = 1.0, bias_variance: Scale = 0.0
) -> StretchedGrowth:
    """Two orders of ``log J`` for a bounded ``phi`` and ``mu = 1`` (docs/derivations, 'A bounded function').

    Without bias and with ``phi_inf = 1`` these are ``2 alpha sigma I / sqrt(2 pi)`` and ``(I / 4 pi) (2 A - alpha^2 sigma^2 I)``.

    Args:
        function: ``phi``.
        alpha, weight_variance, bias_variance: dimensionless.

    Raises:
        ValueError: ``phi`` unbounded or oscillating, with ``int phi'^2`` infinite, or a variance of the weights of 0.
    """
    tail = tail_of(function)
    if tail.growth != "bounded" or not math.isfinite(tail.slope_integral) or slope_diverges(function):
        raise ArgumentError(
            f"function {function.name!r} must be bounded with a square-integrable slope, but its growth is {tail.growth!r} or the"
            " integral of phi'^2 diverges"
        )
    _check_positive(alpha=alpha)
    if weight_variance == 0:
        raise ArgumentError("weight_variance=0.0 must be above 0 for gradients to grow")
    end = tail.scale**2
    grown = weight_variance * end + bias_variance
    gain = weight_variance * alpha * tail.slope_integral
    deficit = saturation_deficit(function)
    logarithm = weight_variance**2 * end * deficit * tail.slope_integral / (2 * math.pi * grown**2)
    logarithm -= gain**2 / (4 * math.pi * grown)
    rate = 2 * gain / math.sqrt(2 * math.pi * grown)
    return StretchedGrowth(rate, logarithm if math.isfinite(deficit) else math.nan)


@checked
def linear_rate(function: PointwiseFunction, alpha: Positive = 1.0, weight_variance: Scale = 1.0) -> float:
    """``log(1 + alpha^2 sigma^2 phi'(0)^2)``: growth of ``log K`` and of ``log J`` per layer while ``alpha^2 K << 1``."""
    _check_positive(alpha=alpha)
    return math.log1p(weight_variance * alpha**2 * _slope_at_zero(function) ** 2)


@checked
def crossover_depth(
    function: PointwiseFunction, alpha: Positive = 1.0, weight_variance: Scale = 1.0, q0: Start = 1.0
) -> float:
    """Depth ``l*`` at which ``alpha^2 K = 1``: exponential growth before, stretched after.

    ``s = alpha^2 K`` grows by ``f = alpha^2 sigma^2 V(s)`` a layer, so that ``l* = int_{s0}^1 ds / f + (1/2) log(f(1) /
    f(s0))``, with the first correction for whole layers (Euler-Maclaurin). At weight variance 0.2 and 1 it is within 0.25 per
    cent of the recursion (crossing interpolated linearly) from two layers on, and 0.02 layers off below.

    Args:
        function: ``phi`` with ``phi(0) = 0`` and a slope there.
        alpha, weight_variance: dimensionless.
        q0: variance of the input.

    Returns:
        Layers, not rounded; 0 where ``alpha^2 q0`` is 1 or more already; infinite for a weight variance of 0.

    Raises:
        ValueError: ``phi(0)`` not 0 or no slope there; a variance that is negative, or ``alpha`` or ``q0`` not positive.
    """
    _check_positive(alpha=alpha, q0=q0)
    _slope_at_zero(function)
    start = alpha**2 * q0
    if start >= 1:
        return 0.0
    if weight_variance == 0:
        return math.inf
    value = Pointwise(function).V
    epsilon = alpha**2 * weight_variance
    # over log s, in which 1 / V(s) ds = s / V(s) dlog s is smooth and bounded
    steps = integrate.quad(
        lambda y: math.exp(y) / float(value(math.exp(y))), math.log(start), 0.0, epsrel=1e-11, limit=200
    )[0]
    return float(steps / epsilon + 0.5 * math.log(float(value(1.0)) / float(value(start))))


@checked
def crossover_depth_small_alpha(
    function: PointwiseFunction, alpha: Positive = 1.0, weight_variance: Scale = 1.0, q0: Start = 1.0
) -> float:
    """``l* = (log(1 / alpha^2 q0) + c) / log(1 + alpha^2 sigma^2 phi'(0)^2)``, its limit at small ``alpha``.

    ``c = int_0^1 [phi'(0)^2 / V(s) - 1/s] ds`` is 1.834726 for erf; without it the depth is low by a factor of 1.3 to 2.

    Raises:
        ValueError: as ``crossover_depth``.
    """
    _check_positive(q0=q0)
    rate = linear_rate(function, alpha, weight_variance)
    if alpha**2 * q0 >= 1:
        return 0.0
    if rate == 0:
        return math.inf
    return (-math.log(alpha**2 * q0) + crossover_constant(function)) / rate


@checked
def crossover_constant(function: PointwiseFunction) -> float:
    """``c`` of ``crossover_depth_small_alpha``."""
    value, slope = Pointwise(function).V, _slope_at_zero(function)

    def integrand(s: float) -> float:
        moment = float(value(s))
        return (slope**2 * s - moment) / (moment * s)

    # below 1e-4 the difference is lost in rounding, and the integrand is a constant up to O(s)
    low = 1e-4
    return float(integrate.quad(integrand, low, 1.0, epsrel=1e-11, limit=200)[0] + low * integrand(low))


@checked
def layer_norm_exponent(function: PointwiseFunction, weight_variance: Scale = 1.0, bias_variance: Scale = 0.0) -> float:
    """``zeta`` of ``J ~ L^zeta`` for ``x <- x + W phi(LayerNorm x) + b``: gain of the branch over its variance.

    ``zeta = sigma^2 D / (sigma^2 V + sigma_b^2)`` at unit variance: 1 for the identity and ReLU, above 1 for every other odd
    function without bias (Gaussian Poincare inequality).

    Raises:
        ValueError: a negative variance, or a branch that is 0.
    """
    value, slope = _at_unit_variance(function)
    grown = weight_variance * value + bias_variance
    if grown == 0:
        raise ArgumentError(
            f"weight_variance={weight_variance!r} must leave the branch of {function.name!r} a variance"
        )
    return weight_variance * slope / grown


@checked
def layer_norm_susceptibility(
    function: PointwiseFunction, weight_variance: Scale, bias_variance: Scale = 0.0, skip: Finite = 1.0
) -> float:
    """``chi*`` at the fixed point of ``x <- mu x + W phi(LayerNorm x) + b``, or in the limit of depth at ``mu = 1``.

    ``chi* = mu^2 + (1 - mu^2) sigma_w^2 D / (sigma_w^2 V + sigma_b^2)``: 1 for every ``(sigma_w, sigma_b)`` at ``mu = 1``.

    Args:
        function: ``phi``.
        weight_variance, bias_variance: ``sigma_w^2``, ``sigma_b^2``.
        skip: ``mu``, 0 to 1.

    Raises:
        ValueError: ``skip`` outside [0, 1]; as ``layer_norm_exponent``.
    """
    if not 0 <= skip <= 1:
        raise ArgumentError(f"skip={skip!r} must be a number from 0 to 1")
    return skip**2 + (1 - skip**2) * layer_norm_exponent(function, weight_variance, bias_variance)


@checked
def layer_norm_critical_bias(function: PointwiseFunction, weight_variance: Scale = 1.0) -> float:
    """``sigma_b^2 = sigma_w^2 (D - V)`` at which ``chi* = 1`` for every ``mu < 1``: 0 for ReLU, ``(0.324 sigma_w)^2`` for erf.

    Raises:
        ValueError: a negative variance, or ``V > D``, for which no bias is critical.
    """
    value, slope = _at_unit_variance(function)
    if slope < value * (1 - 1e-12):
        raise ArgumentError(f"function {function.name!r} must have D >= V at unit variance, but {slope:g} < {value:g}")
    return weight_variance * max(slope - value, 0.0)


def _at_unit_variance(function: PointwiseFunction) -> tuple[float, float]:
    pointwise = Pointwise(function)
    return float(pointwise.V(1.0)), float(pointwise.D(1.0))


def _slope_at_zero(function: PointwiseFunction) -> float:
    zero = np.zeros(1)
    value, slope = float(function.value(zero)[0]), abs(float(function.derivative(zero)[0]))
    if abs(value) > 1e-12 or not (slope > 0 and math.isfinite(slope)):
        raise ArgumentError(
            f"function {function.name!r} must be 0 with a finite slope other than 0 at 0, but phi(0) = {value:g} and"
            f" phi'(0) = {slope:g}"
        )
    return slope


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        check(Positive, name, value)
