"""Where a plain MLP goes with depth, and the critical line between its phases (Schoenholz et al. 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from criticality.arguments import Number, Positive, Scale, checked, numbers_within
from criticality.errors import ArgumentError, NotFiniteError
from criticality.lazy import lazy_module
from criticality.pointwise import Pointwise, PointwiseFunction
from criticality.shapes import Float
from criticality.theory.layer import Layer
from criticality.theory.norms import PointwiseNorm

optimize = lazy_module("scipy.optimize")


@checked
def critical_line(
    function: PointwiseFunction, bias_deviations: Float[np.ndarray, " points"], alpha: float = 1.0
) -> Float[np.ndarray, " points"]:
    """``sigma_w`` where a plain MLP is critical, ``chi = 1`` at its fixed point, for each ``sigma_b``.

    At a fixed point of variance ``q``, ``chi = 1`` where ``sigma_w^2 = 1 / (alpha^2 D)``, and then
    ``sigma_b^2 = q - sigma_w^2 V``: one equation for ``q``, solved by Brent's method to 1e-12.

    Raises:
        ValueError: a negative ``sigma_b``, or one for which the equation has no solution between 1e-12 and 1e12.
    """
    pointwise = Pointwise(function, alpha=alpha)

    def weight(log_q: float) -> float:
        slope, _ = pointwise.equal(math.exp(log_q), 1.0, True)
        return 1 / slope

    deviations = np.atleast_1d(numbers_within(Number(low=0), "bias_deviations", bias_deviations))
    line = np.empty(len(deviations))
    for i, bias in enumerate(deviations):
        low, high = math.log(1e-12), math.log(1e12)

        def excess(log_q: float, wanted: float = bias * bias) -> float:
            value, _ = pointwise.equal(math.exp(log_q), 1.0, False)
            return math.exp(log_q) - weight(log_q) * value - wanted

        if bias == 0:
            line[i] = math.sqrt(weight(low))
        elif excess(low) * excess(high) > 0:
            raise ArgumentError(
                f"bias_deviations must have a critical sigma_w for {function.name!r}, and {bias:g} has none"
            )
        else:
            line[i] = math.sqrt(weight(optimize.brentq(excess, low, high, xtol=1e-13, rtol=1e-13)))
    return line


@dataclass(frozen=True)
class FixedPoint:
    """Where a plain MLP goes with depth.

    Attributes:
        q: variance; 0 where every signal dies out.
        chi: susceptibility ``sigma_w^2 alpha^2 D`` of equal inputs: below 1 ordered, above 1 chaotic.
        rho: correlation that different inputs come to: 1 in the ordered phase.
        variance_length, correlation_length: layers over which variance and correlation approach the fixed point,
            ``1 / |log slope|`` of their maps there (Schoenholz et al. 2017, equations 7 and 9).
        gradient_length: ``1 / |log chi|``, layers over which gradients change by a factor of e.
    """

    q: float
    chi: float
    rho: float
    variance_length: float
    correlation_length: float
    gradient_length: float


@checked
def fixed_point_of(
    function: PointwiseFunction, weight_variance: Scale, bias_variance: Scale, alpha: Positive = 1.0
) -> FixedPoint:
    """The fixed point of ``x <- W phi(alpha x) + b`` and the correlation lengths there.

    Raises:
        ValueError: variances that are negative or not finite, or a variance that grows without bound.
    """
    pointwise = Pointwise(function, alpha=alpha)
    layer = Layer(PointwiseNorm(pointwise), weight_variance, bias_variance, skip=0.0)

    def next_variance(q: float) -> float:
        return float(layer.variance(q))

    q = 1.0
    for _ in range(400):
        before, q = q, next_variance(q)
        if not 1e-200 < q < 1e12:
            break
        if abs(q - before) < 1e-15 * q:
            break
    if q >= 1e12:
        raise NotFiniteError(
            f"weight_variance={weight_variance!r} must leave a finite variance, but it grows without bound"
        )
    at_zero = weight_variance * alpha**2 * float(function.derivative(np.zeros(1))[0]) ** 2
    if bias_variance == 0 and at_zero <= 1 and next_variance(q) < q < 0.1:
        q = 0.0  # on the critical line the signal dies out as 1/depth, which no iteration reaches
    if q > 1e-9 and abs(next_variance(q) - q) > 1e-14 * q:
        q = float(
            np.exp(optimize.fixed_point(lambda y: np.log(next_variance(float(np.exp(y)))), math.log(q), xtol=1e-14))
        )
    if q <= 1e-9 and bias_variance == 0:
        return FixedPoint(0.0, at_zero, 1.0, *(_length(at_zero),) * 3)
    _, chi = map(float, layer.step(q))
    h = 1e-4
    slope = (next_variance(q * (1 + h)) - next_variance(q * (1 - h))) / (2 * h * q)
    rho, rho_slope = 1.0, chi
    if chi > 1:
        rho = float(optimize.brentq(lambda r: float(layer.correlation(q, r)) - r, -1 + 1e-9, 1 - 1e-9, xtol=1e-14))
        rho_slope = weight_variance * float(pointwise.Cd(q, q, rho))
    return FixedPoint(q, chi, rho, _length(slope), _length(rho_slope), _length(chi))


def _length(slope: float) -> float:
    return 1 / abs(math.log(abs(slope))) if slope not in (0.0, 1.0, -1.0) else (0.0 if slope == 0.0 else math.inf)
