"""What the tail of a pointwise function says about depth: the analytic class, before anything is iterated.

Notation of docs/theory, section 7: ``phi ~ c |x|^p`` at infinity (``p = 0`` is bounded), ``I = int phi'^2``,
``m = E |z|^(2p)`` for a standard normal ``z``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from criticality.arguments import checked
from criticality.errors import ArgumentError
from criticality.lazy import lazy_module
from criticality.pointwise import PointwiseFunction
from criticality.pointwise.quadrature import ArrayFunction

special = lazy_module("scipy.special")

Growth = Literal["bounded", "logarithmic", "power", "oscillating"]

_FAR = np.logspace(3, 9, 25)
_DEFICIT_ROUNDING = 1e-14
"""Below it ``1 - phi^2 / phi_inf^2`` is rounding, which panels of length 2^20 would add up."""


class Asymptote(NamedTuple):
    """Class, exponent and coefficient of ``log J`` at great depth."""

    kind: str
    exponent: float
    coefficient: float


@dataclass(frozen=True)
class Tail:
    """The tail of a function.

    Attributes:
        growth: ``bounded``, ``logarithmic`` (slower than any power, unbounded), ``power`` or ``oscillating`` (bounded, with
            a slope that does not decay).
        power: ``p``; 0 unless ``growth`` is ``power``.
        scale: ``c``, the root mean square of the two sides' ``|phi| / |x|^p``.
        slope_integral: ``I = int phi'^2``, infinite where it diverges.
    """

    growth: Growth
    power: float
    scale: float
    slope_integral: float

    def expected(self, alpha: float, weight_variance: float) -> Asymptote:
        """What ``log J`` comes to for ``x + W phi(alpha x)`` (docs/theory, section 7).

        ``stretched``: ``log J ~ coefficient L^exponent``. ``power``: ``J ~ L^exponent``, coefficient nan.
        ``exponential``: ``log J ~ coefficient L``, exponent 1; the coefficient is the rate at infinite variance.
        """
        sigma2, p = weight_variance, self.power
        if sigma2 == 0:
            return Asymptote("power", 0.0, math.nan)
        if self.growth == "oscillating":
            return Asymptote("exponential", 1.0, math.log1p(sigma2 * alpha**2 * self.scale**2))
        if p >= 0.999:
            return Asymptote("exponential", 1.0, math.log1p(sigma2 * alpha**2 * self.scale**2))
        if p > 0.5:
            return Asymptote("power", p * p / ((1 - p) * (2 * p - 1)), math.nan)
        if abs(p - 0.5) < 1e-3:  # between the two: log J ~ (log L)^2
            return Asymptote("stretched", 0.0, math.nan)
        moment = 2**p * special.gamma(p + 0.5) / math.sqrt(math.pi)
        growth = (1 - p) * sigma2 * self.scale**2 * alpha ** (2 * p) * moment
        exponent = (1 - 2 * p) / (2 * (1 - p))
        if self.growth == "logarithmic" or not math.isfinite(self.slope_integral):
            return Asymptote("stretched", exponent, math.nan)
        rate = sigma2 * alpha * self.slope_integral / math.sqrt(2 * math.pi)
        return Asymptote("stretched", exponent, float(rate * growth ** (-1 / (2 * (1 - p))) / exponent))


@checked
def tail_of(function: PointwiseFunction) -> Tail:
    """The tail of a function, read off its values between 10^3 and 10^9 on both sides.

    Raises:
        ValueError: a function that vanishes at infinity on both sides, or grows faster than ``|x|``.
    """
    sides = [np.abs(function.value(sign * _FAR)) for sign in (1.0, -1.0)]
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        slopes = [function.derivative(sign * _FAR * (1 + 0.37 * np.arange(25) / 25)) for sign in (1.0, -1.0)]
    wavering = float(np.sqrt(np.mean(np.square(slopes))))
    level = max(float(side[-1]) for side in sides)
    bounded_by = max(float(side.max()) for side in sides)
    if wavering > 1e-3 and bounded_by < 1e3:
        return Tail("oscillating", 0.0, _mean_square_slope(function.derivative), math.inf)
    if level < 1e-6:
        raise ArgumentError(
            f"function {function.name!r} must not vanish at infinity: its branch would die out with depth"
        )
    larger = sides[0] if sides[0][-1] >= sides[1][-1] else sides[1]
    late = math.log(larger[-1] / larger[-9]) / math.log(_FAR[-1] / _FAR[-9])
    if late > 1.01:
        raise ArgumentError(f"function {function.name!r} must grow no faster than |x|, but grows as |x|^{late:.2f}")
    integral = _slope_integral(function.derivative, function.kinks)
    if late < 1e-3:
        return Tail("bounded", 0.0, _root_mean_square([side[-1] for side in sides]), integral)
    power = _power_of_slope(function.derivative, 1.0 if larger is sides[0] else -1.0)
    if power < 1e-3:
        return Tail("logarithmic", 0.0, _root_mean_square([side[-1] for side in sides]), integral)
    scale = _root_mean_square([side[-1] / _FAR[-1] ** power for side in sides])
    return Tail("power", power, scale, integral)


def slope_diverges(function: PointwiseFunction) -> bool:
    """Whether ``int phi'^2`` diverges at a kink, as that of ``1 - exp(-sqrt(x))`` does at 0: then ``E phi'^2`` is infinite
    at any variance.  Seen from panels that halve, twice a hundred times, towards each kink."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    edges = 2.0 ** np.arange(-200, -150)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    for kink in function.kinks:
        for sign in (1.0, -1.0):
            x = kink + sign * (middle[:, None] + half[:, None] * nodes)
            panels = half * (function.derivative(x.ravel()).reshape(x.shape) ** 2 @ weights)
            if panels[0] > 0.98 * panels[1] > 0:
                return True
    return False


def _power_of_slope(derivative: ArrayFunction, sign: float) -> float:
    """``p`` from ``phi' ~ x^(p-1)``: constants that are added to ``phi`` do not delay it."""
    near, far = np.abs(derivative(sign * _FAR[[-5, -1]]))
    power = 1 + math.log(far / near) / math.log(_FAR[-1] / _FAR[-5])
    return round(power, 4) if abs(power - round(power, 4)) < 1e-5 else power


def _root_mean_square(values: list[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))


def _mean_square_slope(derivative: ArrayFunction) -> float:
    u = np.linspace(1e3, 1e3 + 2000.0, 2_000_001)
    return math.sqrt(float(np.mean(derivative(u) ** 2)))


def saturation_deficit(function: PointwiseFunction) -> float:
    """``A = int (phi(+-inf)^2 - phi^2) / phi_inf^2`` of a bounded function, each side relative to its own bound.

    ``phi_inf^2`` is the mean square of the two bounds, so that ``V(q) = phi_inf^2 (1 - A / sqrt(2 pi q) + ...)``; infinite where
    ``phi`` comes to its bounds as ``1/x`` or slower.
    """
    left, right = (float(function.value(np.array([sign * _FAR[-1]]))[0]) ** 2 for sign in (-1.0, 1.0))
    end = (left + right) / 2

    def deficit(x: np.ndarray) -> np.ndarray:
        found = (np.where(x < 0, left, right) - function.value(x) ** 2) / end
        return np.where(np.abs(found) < _DEFICIT_ROUNDING, 0.0, found)

    return _line_integral(deficit, function.kinks, doublings=20)


def _slope_integral(derivative: ArrayFunction, kinks: tuple[float, ...]) -> float:
    return _line_integral(lambda x: derivative(x) ** 2, kinks, doublings=40)


def _line_integral(values: ArrayFunction, kinks: tuple[float, ...], doublings: int) -> float:
    """By panels that double up to ``2^doublings``, and their geometric series beyond; infinite where they do not fall off."""
    nodes, weights = np.polynomial.legendre.leggauss(32)
    edges = np.concatenate([[0.0], 2.0 ** np.arange(-200, doublings + 1)])
    cuts = np.unique(np.concatenate([-edges, edges, *[k + np.concatenate([-edges[:202], edges[:202]]) for k in kinks]]))
    half, middle = np.diff(cuts) / 2, (cuts[1:] + cuts[:-1]) / 2
    at_nodes = values((middle[:, None] + half[:, None] * nodes).ravel()).reshape(len(middle), -1)
    panels = half * (at_nodes @ weights)
    last, before = panels[-1] + panels[0], panels[-2] + panels[1]
    if abs(last) < 1e-13 * abs(panels.sum()):
        return float(panels.sum())
    ratio = last / before
    return float(panels.sum() + last * ratio / (1 - ratio)) if ratio < 0.98 else math.inf
