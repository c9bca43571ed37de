"""Exponential, stretched exponential or power law: by the tail of the function, and by its own depth profile."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from criticality.phases.depth import ResidualStep, amplification
from criticality.phases.tails import tail_of
from criticality.theory.norms import LayerNorm, PointwiseNorm

Class = Literal["exponential", "stretched", "power", "decaying"]

DEPTHS = (12, 48, 192, 1000)
"""Depths at which ``log J`` is given."""

_DECADES = np.logspace(0, 9, 109)
_SETTLED = 0.03


@dataclass(frozen=True)
class Classification:
    """How ``log J(0 -> L)`` of a residual network grows.

    Attributes:
        kind: the class that the profile over nine decades of depth shows.
        exponent: of ``L`` in ``log J`` (``stretched``: below one; ``exponential``: 1), or ``zeta`` of ``J ~ L^zeta``.
        coefficient: of ``L^exponent`` in ``log J``; nan for a power law.
        interval: of the exponent, from how much it still moves over the last three decades.
        crossover_depth: depth from which the profile is nearer to its asymptotic class than to exponential growth; nan for
            an exponential.
        analytic: class, exponent and coefficient from the tail of the function, ``None`` where none is known.
        agrees: whether both classes are one and the analytic exponent lies in the interval.
        log_apjn: ``log J`` at ``DEPTHS``.
    """

    kind: Class
    exponent: float
    coefficient: float
    interval: tuple[float, float]
    crossover_depth: float
    analytic: tuple[str, float, float] | None
    agrees: bool | None
    log_apjn: dict[int, float]

    def record(self) -> dict[str, Any]:
        """As the command line prints it: ``kind`` is called ``class``."""
        fields = asdict(self)
        return {"class": fields.pop("kind"), **fields}


def classify(step: ResidualStep, q0: float = 1.0) -> Classification:
    """Classify ``x <- x + W norm(x) + b`` (docs/theory, section 7).

    The profile alone cannot tell a stretched exponential with a tiny exponent from a power law: that is what the
    analytic class is for, and both are reported.

    Raises:
        ValueError: as ``amplification`` and ``tail_of``.
    """
    depths = np.unique(_DECADES.round())
    log_j = amplification(step, [*depths, *DEPTHS], q0)
    profile, at_depths = log_j[: len(depths)], log_j[len(depths) :]
    kind, exponent, coefficient, interval, crossover = _read(depths, profile)
    analytic, slack = _analytic(step)
    agrees = None
    if analytic is not None:
        low, high = interval
        agrees = analytic[0] == kind and low - slack <= analytic[1] <= high + slack
    return Classification(
        kind,
        exponent,
        coefficient,
        interval,
        crossover,
        analytic,
        agrees,
        {depth: float(value) for depth, value in zip(DEPTHS, at_depths, strict=True)},
    )


def _read(depths: np.ndarray, profile: np.ndarray) -> tuple[Class, float, float, tuple[float, float], float]:
    """Class, exponent, coefficient, interval and crossover depth of a profile."""
    if profile[-1] <= 0:
        return "decaying", math.nan, math.nan, (math.nan, math.nan), math.nan
    x = np.log(depths)
    gain = np.gradient(profile, x)  # d log J / d log L: constant for a power law, ~ L^beta otherwise
    beta = np.gradient(np.log(gain), x)
    x, gain, beta = x[:-2], gain[:-2], beta[:-2]  # one-sided differences at the end are not as good
    last, decade = x > x[-1] - math.log(1e3), x > x[-1] - math.log(10)
    settled, moves = float(np.mean(beta[decade])), float(np.ptp(beta[last]))
    above = np.flatnonzero(beta >= (1 + max(settled, 0.0)) / 2)
    crossover = float(depths[min(above[-1] + 1, len(beta) - 1)] if len(above) else depths[0])
    if settled > 1 - _SETTLED:
        rate = float((profile[-1] - profile[-2]) / (depths[-1] - depths[-2]))
        return "exponential", 1.0, rate, (1 - moves - 1e-6, 1 + moves + 1e-6), math.nan
    if settled < _SETTLED:
        zeta, drift = float(gain[-1]), float(np.ptp(gain[last])) + 1e-5 * float(gain[-1])
        return "power", zeta, math.nan, (zeta - drift, zeta + drift), crossover
    exponent = _extrapolated(x, beta)
    spread = 1.5 * max(abs(exponent - settled), moves) + 1e-6
    coefficient = _coefficient(depths, profile, exponent if abs(exponent - 0.5) > 2e-3 else 0.5)
    return "stretched", exponent, coefficient, (exponent - spread, exponent + spread), crossover


def _extrapolated(x: np.ndarray, beta: np.ndarray) -> float:
    """The exponent without its leading correction, which falls as a power of depth: Aitken over three decades."""
    a, b, c = (float(np.interp(x[-1] - k * math.log(10), x, beta)) for k in (2, 1, 0))
    bend = c - 2 * b + a
    if abs(bend) < 1e-9 or abs(c - b) > 0.8 * abs(b - a):
        return c  # no geometric approach to be continued
    return c - (c - b) ** 2 / bend


def _coefficient(depths: np.ndarray, profile: np.ndarray, exponent: float) -> float:
    """From the increase over the last decade: constants and logarithms drop out to leading order."""
    first = int(np.searchsorted(depths, depths[-1] / 10))
    grown = depths[-1] ** exponent - depths[first] ** exponent
    return float((profile[-1] - profile[first]) / grown)


def _analytic(step: ResidualStep) -> tuple[tuple[str, float, float] | None, float]:
    """The analytic class, and how far logarithms may keep the exponent from it at the greatest depth."""
    if isinstance(step.norm, LayerNorm):
        grown = step.weight_variance * (step.norm.gamma**2 + step.norm.beta**2) + step.bias_variance
        return ("power", step.weight_variance * step.norm.gamma**2 / grown, math.nan), 1e-6
    if isinstance(step.norm, PointwiseNorm) and not step.bias_variance:
        pointwise = step.norm.pointwise
        if pointwise.beta == 0 and pointwise.gamma == 1 and pointwise.shift == 0:
            tail = tail_of(pointwise.phi)
            expected = tail.expected(pointwise.alpha, step.weight_variance)
            logarithms = tail.growth == "logarithmic" or (expected[0] == "stretched" and expected[1] == 0.0)
            return expected, 1.5 / math.log(_DECADES[-1]) if logarithms else 1e-6
    return None, 0.0
