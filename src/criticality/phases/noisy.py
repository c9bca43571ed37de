"""How ``log J`` grows with depth, read from profiles that have noise: local exponents with standard errors over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from criticality.errors import ArgumentError
from criticality.lazy import lazy_module
from criticality.phases.classification import DEPTHS, Class, Classification
from criticality.shapes import Float

optimize = lazy_module("scipy.optimize")
special = lazy_module("scipy.special")

GEOMETRIC = (1, 3, 6, 12, 24, 48, 96, 192, 333, 577, 1000)
"""Depths in blocks at which a network that is run is looked at."""

_WINDOW = 24
"""The class is read from depths down to this fraction of the largest."""

_RESOLUTION = 0.1
"""Of the exponent of ``L`` in ``log J`` in such a window, where the approach to the asymptotic class is not over."""


@dataclass(frozen=True)
class SampledClassification(Classification):
    """A classification from profiles with noise, of a network that was run to a finite depth.

    ``kind`` is ``power`` or ``exponential`` where ``interval``, or a tenth, reaches 0 or 1, else ``stretched``; it is the class
    that is seen between a 24th of the depth and the depth.  ``interval`` is two standard errors and ``exponent_systematic`` to
    each side.

    Attributes:
        exponent_se, coefficient_se, crossover_depth_se: standard errors over seeds (jackknife); nan for one seed.
        exponent_systematic: what seeds do not show: by how much the exponent changes when it is read from the deeper half of the
            window; of an exponential, whose exponent is 1, how far the one that was read is from that.
        log_apjn_se: of ``log_apjn``.
        curvature, curvature_se: the local exponent of ``L`` in ``log J`` in that window: 0 for a power law, 1 for an exponential.
        local_exponents: ``d log J / d log L`` between successive depths, with their standard errors, by the geometric mean of
            the two.
        depth: the largest, in blocks.
        seeds: how many.
        way: ``sampled``.
    """

    exponent_se: float
    exponent_systematic: float
    coefficient_se: float
    crossover_depth_se: float
    log_apjn_se: dict[int, float]
    curvature: float
    curvature_se: float
    local_exponents: dict[float, tuple[float, float]]
    depth: int
    seeds: int
    way: str = "sampled"


def classify_profiles(
    depths: Sequence[int], log_apjn: Float[np.ndarray, "seeds depths"], *, steps: bool = True
) -> SampledClassification:
    """Classify ``log J(0 -> L)`` of several seeds.

    In the window ``log J = a + c (L^beta - 1) / beta`` is fitted to what is added from depth to depth, weighted by its scatter.

    Args:
        depths: rising, five or more for a class to be seen.
        log_apjn: of each seed at these, of weights of its own.
        steps: whether what a seed adds from depth to depth is independent of what it had, as for a direction that is sent
            along: then the mean of ``J`` is the product of the means of these factors, which has less noise.

    Raises:
        ValueError: fewer than five depths, or values that are not finite.
    """
    at, values = np.asarray(depths, dtype=float), np.asarray(log_apjn, dtype=float)
    if len(at) < 5 or values.ndim != 2 or values.shape[1] != len(at) or not np.all(np.isfinite(values)):
        raise ArgumentError(
            f"log_apjn of shape {values.shape} must hold finite numbers at five depths or more, got depths={list(depths)!r}"
        )
    profiles = _Profiles(at, values, steps)
    kind, found = _seen(profiles)
    exponent, se, systematic = (found.get(name, math.nan) for name in ("exponent", "exponent_se", "systematic"))
    reach = 2 * se + systematic
    profile, profile_se = profiles.jackknife(lambda one: one)
    gain, gain_se = profiles.jackknife(lambda one: np.diff(one) / np.diff(np.log(at)))
    middle = np.sqrt(at[1:] * at[:-1])
    shown = [index for index, depth in enumerate(at) if int(depth) in DEPTHS or index == len(at) - 1]
    return SampledClassification(
        kind=kind,
        exponent=exponent,
        coefficient=found.get("coefficient", math.nan),
        interval=(exponent - reach, exponent + reach),
        crossover_depth=found.get("crossover", math.nan),
        analytic=None,
        agrees=None,
        law=None,
        log_apjn={int(at[index]): float(profile[index]) for index in shown},
        exponent_se=se,
        exponent_systematic=systematic,
        coefficient_se=found.get("coefficient_se", math.nan),
        crossover_depth_se=found.get("crossover_se", math.nan),
        log_apjn_se={int(at[index]): float(profile_se[index]) for index in shown},
        curvature=found.get("curvature", math.nan),
        curvature_se=found.get("curvature_se", math.nan),
        local_exponents={
            float(f"{a:.3g}"): (float(b), float(c)) for a, b, c in zip(middle, gain, gain_se, strict=True)
        },
        depth=int(at[-1]),
        seeds=len(values),
    )


@dataclass(frozen=True)
class _Profiles:
    """``log J(0 -> L)`` of several seeds at depths, and what is read from their ensemble with its error over seeds."""

    depths: Float[np.ndarray, " depths"]
    values: Float[np.ndarray, "seeds depths"]
    steps: bool

    @property
    def mean(self) -> Float[np.ndarray, " depths"]:
        return _ensemble(self.values, self.steps)

    def jackknife(self, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """A statistic of the ensemble's profile, and its standard error (nan for one seed)."""
        whole = statistic(self.mean)
        size = len(self.values)
        if size == 1:
            return whole, np.full_like(whole, np.nan)
        left = (np.delete(self.values, seed, axis=0) for seed in range(size))
        parts = np.array([statistic(_ensemble(values, self.steps)) for values in left])
        return whole, np.sqrt((size - 1) / size * ((parts - parts.mean(axis=0)) ** 2).sum(axis=0))

    def number(self, statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
        """The same of one number."""
        value, error = self.jackknife(lambda one: np.array([statistic(one)]))
        return float(value[0]), float(error[0])


def _seen(profiles: _Profiles) -> tuple[Class, dict[str, float]]:
    """The class that is seen in the window of depths, and its numbers."""
    at, mean, spread = profiles.depths, profiles.mean, _scatter(np.diff(profiles.values, axis=1))
    window = slice(max(0, min(int(np.searchsorted(at, at[-1] / _WINDOW)), len(at) - 4)), None)
    weights = 1 / spread[window.start :] ** 2
    deeper = slice(min(int(np.searchsorted(at, math.sqrt(at[window.start] * at[-1]))), len(at) - 3), None)
    deeper_weights = 1 / spread[deeper.start :] ** 2
    grown, grown_se = profiles.number(lambda one: one[-1] - one[window.start])
    noise = 0.0 if math.isnan(grown_se) else 2 * grown_se
    if grown < -noise:
        return "decaying", {}
    zeta, zeta_se = profiles.number(lambda one: _slope(at[window], one[window], weights, 0.0))
    power = {"exponent": zeta, "exponent_se": zeta_se}
    power["systematic"] = abs(_slope(at[deeper], mean[deeper], deeper_weights, 0.0) - zeta)
    if grown <= noise:  # critical: log J does not grow beyond its noise
        return "power", power
    beta, beta_se = profiles.number(lambda one: _bend(at[window], one[window], weights))
    margin = _RESOLUTION if math.isnan(beta_se) else max(_RESOLUTION, 2 * beta_se)
    bent = {"curvature": beta, "curvature_se": beta_se}
    if beta >= 1 - margin and beta >= 0.5:
        rate, rate_se = profiles.number(lambda one: _rate(at, one))
        known = {"exponent": 1.0, "exponent_se": beta_se, "systematic": abs(1 - beta)}
        return "exponential", {"coefficient": rate, "coefficient_se": rate_se, **known, **bent}
    bent["crossover"], bent["crossover_se"] = profiles.number(lambda one: _crossover(at, one, beta))
    if beta <= margin:
        return "power", power | bent
    scale, scale_se = profiles.number(lambda one: _slope(at[window], one[window], weights, beta) / beta)
    known = {"exponent": beta, "exponent_se": beta_se}
    known["systematic"] = abs(_bend(at[deeper], mean[deeper], deeper_weights) - beta)
    return "stretched", {"coefficient": scale, "coefficient_se": scale_se, **known, **bent}


def _ensemble(values: Float[np.ndarray, "seeds depths"], steps: bool) -> Float[np.ndarray, " depths"]:
    """``log E J``."""
    if steps:
        return np.cumsum(_log_mean(np.diff(values, axis=1, prepend=0.0)))
    return _log_mean(values)


def _log_mean(values: np.ndarray) -> np.ndarray:
    return np.asarray(special.logsumexp(values, axis=0)) - math.log(len(values))


def _scatter(added: Float[np.ndarray, "seeds steps"]) -> Float[np.ndarray, " steps"]:
    """Standard deviation of what is added over seeds, smoothed: a few seeds do not know it well."""
    if len(added) == 1:
        return np.ones(added.shape[1])
    own = added.var(axis=0, ddof=1)
    return np.sqrt(0.5 * own + 0.5 * own.mean() + 1e-12)


def _grown(at: np.ndarray, beta: float) -> np.ndarray:
    """``(L^beta - 1) / beta`` from depth to depth."""
    x = np.log(at)
    grown: np.ndarray = np.diff(x if abs(beta) < 1e-9 else np.expm1(beta * x) / beta)
    return grown


def _slope(at: np.ndarray, profile: np.ndarray, weights: np.ndarray, beta: float) -> float:
    """``c`` of least squares for a given ``beta``."""
    shape = _grown(at, beta)
    return float(np.sum(weights * shape * np.diff(profile)) / np.sum(weights * shape**2))


def _bend(at: np.ndarray, profile: np.ndarray, weights: np.ndarray) -> float:
    """``beta`` of least squares."""

    def misfit(beta: float) -> float:
        rest = np.diff(profile) - _slope(at, profile, weights, beta) * _grown(at, beta)
        return float(np.sum(weights * rest**2))

    start = min(np.linspace(-1.0, 2.0, 31), key=misfit)
    return float(optimize.minimize_scalar(misfit, bounds=(start - 0.1, start + 0.1), method="bounded").x)


def _rate(at: np.ndarray, profile: np.ndarray) -> float:
    """Of ``log J`` with a block, over the last half of the depth or the last step."""
    first = min(int(np.searchsorted(at, at[-1] / 2)), len(at) - 2)
    return float((profile[-1] - profile[first]) / (at[-1] - at[first]))


def _crossover(at: np.ndarray, profile: np.ndarray, beta: float) -> float:
    """Depth from which growth is nearer to the class than to an exponential: where its local exponent last falls below
    the middle of both."""
    x = np.log(at)
    gain = np.maximum(np.diff(profile) / np.diff(x), 1e-12)
    middle = (x[1:] + x[:-1]) / 2
    local = (np.log(gain[2:]) - np.log(gain[:-2])) / (middle[2:] - middle[:-2])
    level = (1 + max(beta, 0.0)) / 2
    above = np.flatnonzero(local >= level)
    if not len(above):
        return float(at[0])
    last = int(above[-1])
    if last == len(local) - 1:
        return float(at[-1])
    part = (local[last] - level) / (local[last] - local[last + 1])
    return float(math.exp(middle[last + 1] + part * (middle[last + 2] - middle[last + 1])))
