"""Kernel formula of functions that are linear between their kinks: clips, leaky rectifiers, zigzags, ramps of stairs.

``f(x) = intercept + slope x + sum_i jumps_i (x - kinks_i)_+``, so that averages are sums over pairs of kinks ``c, d`` of
``L = P(u > c, v > d)`` and ``E (u - c)_+ (v - d)_+``.  With ``h = c / sigma_u``, ``k = d / sigma_v``, ``r^2 = 1 - rho^2``,
``h' = (h - rho k) / r``, ``k' = (k - rho h) / r``, ``Q`` the upper tail of the normal law and ``n`` its density, Stein's lemma is

    E (u - c)_+ (v - d)_+ = (p + c d) L + sigma_u sigma_v r n(h) n(k') - sigma_u d n(h) Q(k') - sigma_v c n(k) Q(h'),

and ``L`` is a sum of Owen's functions (Owen 1956).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from criticality.lazy import lazy_module
from criticality.pointwise.erf_mixtures import by_chunks

special = lazy_module("scipy.special")

Array = np.ndarray

_LINEAR = 1e-12
"""Relative to the function's size nearby; what is rounded in the callable's own code is less."""


class PiecewiseLinearFormula:
    """``f(x) = intercept + slope x + sum_i jumps_i (x - kinks_i)_+``; of bounded functions ``q`` cancels."""

    cancels = True

    def __init__(self, intercept: float, slope: float, kinks: Array, jumps: Array):
        self.intercept, self.slope, self.kinks, self.jumps = intercept, slope, kinks, jumps
        self.terms = 1 + len(kinks) ** 2

    def average(self, q_a: Array, q_b: Array, rho: Array, derivative: bool, tolerance: float) -> tuple[Array, Array]:
        return by_chunks(self._slopes if derivative else self._values, 8 * self.terms, q_a, q_b, rho)

    def equal(self, q: float, rho: float, derivative: bool, tolerance: float) -> tuple[float, float]:
        variances = np.array([q, q])
        value, _ = self.average(variances, variances, np.array([1.0, rho]), derivative, tolerance)
        return float(value[0]), float(value[1])

    def _slopes(self, q_a: Array, q_b: Array, rho: Array) -> tuple[Array, Array]:
        h, k = (self.kinks / _deviation(q) for q in (q_a, q_b))
        pairs = _both_above(h[:, :, None], k[:, None, :], rho[:, None, None])
        linear = self.slope * ((special.ndtr(-h) + special.ndtr(-k)) @ self.jumps)
        parts = np.stack([np.full_like(linear, self.slope**2), linear, (pairs @ self.jumps) @ self.jumps])
        return parts.sum(axis=0), self._largest() + np.abs(parts).max(axis=0)

    def _values(self, q_a: Array, q_b: Array, rho: Array) -> tuple[Array, Array]:
        of_a, of_b = _deviation(q_a), _deviation(q_b)
        h, k = self.kinks / of_a, self.kinks / of_b
        p = rho[:, None] * of_a * of_b
        with_one = of_a * _ramp(h) + of_b * _ramp(k)  # E (u - c)_+ + E (v - c)_+
        with_x = p * (special.ndtr(-h) + special.ndtr(-k))
        linear = (self.intercept * with_one + self.slope * with_x) @ self.jumps
        pairs = self._ramps(of_a[:, :, None], of_b[:, :, None], rho[:, None, None])
        parts = np.stack([self.intercept**2 + self.slope**2 * p[:, 0], linear, (pairs @ self.jumps) @ self.jumps])
        largest = np.abs(pairs).max(axis=(1, 2)) * self._largest()
        return parts.sum(axis=0), largest + np.abs(parts).max(axis=0)

    def _ramps(self, of_a: Array, of_b: Array, rho: Array) -> Array:
        """``E (u - c)_+ (v - d)_+`` of all pairs of kinks, ``(points, kinks, kinks)``."""
        c, d = self.kinks[:, None], self.kinks[None, :]
        h, k = c / of_a, d / of_b
        root = np.sqrt((1 - rho) * (1 + rho))
        h_given, k_given = (h - rho * k) / _positive(root), (k - rho * h) / _positive(root)
        product = of_a * of_b
        found: Array = (
            (rho * product + c * d) * _both_above(h, k, rho)
            + product * root * _density(h) * _density(k_given)
            - of_a * d * _density(h) * special.ndtr(-k_given)
            - of_b * c * _density(k) * special.ndtr(-h_given)
        )
        return found

    def _largest(self) -> float:
        return float(np.abs(self.jumps).max() ** 2)


def piecewise_linear(value: Callable[[Array], Array], kinks: tuple[float, ...]) -> PiecewiseLinearFormula | None:
    """The formula of a function that is linear between its kinks and beyond them; ``None`` for another."""
    if not kinks:
        return None
    places = np.array(kinks, dtype=float)
    edges = np.concatenate([places[:1] - 1, places, places[-1:] + 1])
    width = np.diff(edges)
    heights = [value(edges[:-1] + share * width) for share in (0.1, 0.9)]
    slopes = (heights[1] - heights[0]) / (0.8 * width)
    intercepts = heights[0] - slopes * (edges[:-1] + 0.1 * width)
    jumps, slope, intercept = np.diff(slopes), float(slopes[0]), float(intercepts[0])
    bent = np.abs(jumps) > _LINEAR * np.abs(slopes).max()  # of declared places some are no kinks
    jumps, declared = jumps[bent], places[bent]
    meet = -np.diff(intercepts)[bent] / jumps  # where lines meet is known better than where kinks are found
    if not bent.any() or np.abs(meet - declared).max() > 1e-6 * np.abs(places).max() + 1e-6:
        return None
    places = np.where(np.abs(meet - declared) < 1e-13, declared, meet)

    outside = np.logspace(-1.0, 9.0, 61)
    between = (edges[:-1, None] + width[:, None] * np.linspace(0.013, 0.987, 17)).ravel()
    x = np.concatenate([places[0] - outside, between, places[-1] + outside])
    ramps = np.maximum(x[:, None] - places, 0.0) * jumps
    size = np.abs(intercept) + np.abs(slope * x) + np.abs(ramps).sum(axis=1)
    differ = np.abs(intercept + slope * x + ramps.sum(axis=1) - value(x)) > _LINEAR * np.maximum(size, 1e-300)
    return None if differ.any() else PiecewiseLinearFormula(intercept, slope, places, jumps)


def _both_above(h: Array, k: Array, rho: Array) -> Array:
    """``P(x > h, y > k)`` of standard normal ``x, y`` of correlation ``rho``."""
    root = _positive(np.sqrt((1 - rho) * (1 + rho)))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        of_h = special.owens_t(h, np.nan_to_num((k - rho * h) / root / h, nan=0.0, posinf=np.inf, neginf=-np.inf))
        of_k = special.owens_t(k, np.nan_to_num((h - rho * k) / root / k, nan=0.0, posinf=np.inf, neginf=-np.inf))
    opposite = (h * k < 0) | ((h * k == 0) & (h + k < 0))
    found = (special.ndtr(-h) + special.ndtr(-k)) / 2 - of_h - of_k - opposite / 2
    at_zero = 0.25 + np.arcsin(rho) / (2 * np.pi)
    return np.where((h == 0) & (k == 0), at_zero, np.maximum(found, 0.0))


def _ramp(h: Array) -> Array:
    """``E (x - h)_+`` of a standard normal ``x``."""
    ramp: Array = _density(h) - h * special.ndtr(-h)
    return ramp


def _density(x: Array) -> Array:
    with np.errstate(under="ignore", over="ignore"):
        density: Array = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    return density


def _deviation(q: Array) -> Array:
    return _positive(np.sqrt(q))[:, None]


def _positive(x: Array) -> Array:
    return np.maximum(x, 1e-100)
