"""Kernel formulas of erf and GELU, and of what is a mixture of them: tanh, SiLU, arctan."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from criticality.lazy import lazy_module

special = lazy_module("scipy.special")

Array = np.ndarray

# The averages over one pair erf(b x), erf(c y), for ``xp`` numpy or math alike.  ``left = 2 b^2 q_a``,
# ``right = 2 c^2 q_b``, ``root = sqrt(left right)``, ``spread = 1 - rho^2``, ``delta^2 = (1 + left)(1 + right) -
# (root rho)^2``, ``bc = b c``, ``q = sqrt(q_a q_b)``.  No factor overflows for variances up to 1e248.

_SQUARE_OVERFLOWS = 1e140  # variances whose square may, times the squares of scales


def _delta(xp: ModuleType, q: float, total: Any, root: Any, spread: Any) -> Any:
    """``q``: the largest variance; ``total = left + right``."""
    if q > _SQUARE_OVERFLOWS:
        return xp.hypot(xp.sqrt(1 + total), root * xp.sqrt(spread))
    return xp.sqrt(1 + total + root * root * spread)


def _erf_erf(xp: ModuleType, root: Any, rho: Any, delta: Any) -> Any:
    return xp.atan(root * rho / delta) * (2 / math.pi)


def _slope_slope(bc: Any, delta: Any) -> Any:
    return (4 / math.pi) * bc / delta


def _gated_outer(left: Any, right: Any, root: Any, q: Any, rho: Any, spread: Any, delta: Any) -> Any:
    """The part of ``E x y erf(b x) erf(c y)`` beside ``q rho E erf(b x) erf(c y)``; positive."""
    return (2 / math.pi) * (q * (spread + rho * rho * (1 / (1 + left) + 1 / (1 + right)))) * (root / delta)


def _gated_slope(left: Any, right: Any, root: Any, rho: Any, delta: Any) -> Any:
    """The part of ``4 E f'(x) f'(y) - 1`` of a gated erf beside ``E erf(b x) erf(c y)``; of the sign of ``rho``."""
    inverse = 1 / delta
    return (2 / math.pi) * root * rho * inverse * (1 / (1 + left) + 1 / (1 + right) + inverse * inverse)


_CHUNK = 1 << 16  # array elements in flight while a mixture is summed: they stay in the second-level cache


def by_chunks(
    average: Callable[[Array, Array, Array], tuple[Array, Array]], terms: int, q_a: Array, q_b: Array, rho: Array
) -> tuple[Array, Array]:
    """Apply ``average`` to flat chunks of the (equally shaped) arguments."""
    flat = [x.reshape(-1) for x in (q_a, q_b, rho)]
    chunk = max(1, _CHUNK // terms)
    if rho.size <= chunk:
        value, size = average(*flat)
    else:
        pieces = [average(*(x[i : i + chunk] for x in flat)) for i in range(0, rho.size, chunk)]
        value, size = (np.concatenate(part) for part in zip(*pieces, strict=True))
    return value.reshape(rho.shape), size.reshape(rho.shape)


class Mixture:
    """``sum_i weights_i erf(scales_i x)``, weights positive.

    ``coarse`` is a shorter mixture for the same function with relative error ``coarse_error``; it is used where the
    caller's tolerance allows.
    """

    def __init__(self, weights: Array, scales: Array, coarse: Mixture | None = None, coarse_error: float = 0.0):
        self.squares = 2 * scales * scales
        self.scale_products = np.outer(scales, scales)
        self.products = np.outer(weights, weights).ravel()
        self.terms = len(self.products)
        self.coarse, self.coarse_error = coarse, coarse_error
        # Pairs i <= j, for equal variances.
        rows, columns = np.triu_indices(len(scales))
        self.pair_weights = weights[rows] * weights[columns] * np.where(rows == columns, 1.0, 2.0)
        self.pair_left, self.pair_right = self.squares[rows], self.squares[columns]
        self.pair_total, self.pair_root = self.pair_left + self.pair_right, np.sqrt(self.pair_left * self.pair_right)
        self.pair_scales = scales[rows] * scales[columns]

    def at(self, tolerance: float) -> Mixture:
        return self.coarse if self.coarse is not None and tolerance >= self.coarse_error else self

    def pairs(self, q_a: Array, q_b: Array, rho: Array) -> tuple[Array, Array, Array, Array, Array, Array]:
        """``root, delta`` of shape ``(points, pairs)``, with the products of scales and of weights, ``(pairs,)``: all pairs
        ``(i, j)``, or those with ``i <= j`` where the variances are equal. ``left`` and ``right`` come first, ``(points, i, j)`` by
        broadcasting, or ``(points, pairs)``."""
        if np.array_equal(q_a, q_b):
            left, right = q_a[:, None] * self.pair_left, q_a[:, None] * self.pair_right
            root, scales, weights = q_a[:, None] * self.pair_root, self.pair_scales, self.pair_weights
        else:
            left, right = (q_a[:, None] * self.squares)[:, :, None], (q_b[:, None] * self.squares)[:, None, :]
            root, scales, weights = np.sqrt(left) * np.sqrt(right), self.scale_products.ravel(), self.products
        largest = max(q_a.max(initial=0.0), q_b.max(initial=0.0))
        spread = ((1 - rho) * (1 + rho)).reshape(-1, *(1,) * (root.ndim - 1))
        delta = _delta(np, largest, left + right, root, spread)
        return left, right, root.reshape(len(rho), -1), delta.reshape(len(rho), -1), scales, weights

    def equal_deltas(self, q: float, rho: float) -> tuple[Array, Array, Array]:
        """For two arguments of variance ``q``: ``rho`` standing for both correlations, 1 and ``rho``, and
        ``1 - rho^2``, shape ``(2, 1)``, and ``delta`` of the pairs ``i <= j``, shape ``(2, pairs)``."""
        spread = np.array([[0.0], [(1 - rho) * (1 + rho)]])
        delta = _delta(np, q, q * self.pair_total, q * self.pair_root, spread)
        return np.array([[1.0], [rho]]), spread, delta


class _MixtureFormula(ABC):
    """Averages at equal variances: of one term by numbers, of several by arrays."""

    cancels = False

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        self.terms = mixture.terms

    def equal(self, q: float, rho: float, derivative: bool, tolerance: float) -> tuple[float, float]:
        mixture = self.mixture.at(tolerance)
        if mixture.terms == 1:
            return self._equal_term(q, 1.0, derivative), self._equal_term(q, rho, derivative)
        return self._equal_terms(mixture, q, rho, derivative)

    @abstractmethod
    def _equal_term(self, q: float, rho: float, derivative: bool) -> float:
        """Of the one term there is."""

    @abstractmethod
    def _equal_terms(self, mixture: Mixture, q: float, rho: float, derivative: bool) -> tuple[float, float]:
        """At correlations 1 and ``rho``."""


class ErfMixtureFormula(_MixtureFormula):
    """``f(x) = sum_i w_i erf(b_i x)``: every term has the sign of ``rho``, nothing cancels."""

    def average(self, q_a: Array, q_b: Array, rho: Array, derivative: bool, tolerance: float) -> tuple[Array, Array]:
        mixture = self.mixture.at(tolerance)

        def chunk(q_a: Array, q_b: Array, rho: Array) -> tuple[Array, Array]:
            _, _, root, delta, scales, weights = mixture.pairs(q_a, q_b, rho)
            if derivative:
                value = _slope_slope(scales, delta) @ weights
            else:
                value = _erf_erf(np, root, rho[:, None], delta) @ weights
            return value, np.abs(value)

        return by_chunks(chunk, mixture.terms, q_a, q_b, rho)

    def _equal_terms(self, mixture: Mixture, q: float, rho: float, derivative: bool) -> tuple[float, float]:
        both, _, delta = mixture.equal_deltas(q, rho)
        if derivative:
            terms = _slope_slope(mixture.pair_scales, delta)
        else:
            terms = _erf_erf(np, q * mixture.pair_root, both, delta)
        return tuple((terms @ mixture.pair_weights).tolist())

    def _equal_term(self, q: float, rho: float, derivative: bool) -> float:
        x = 2 * q * float(self.mixture.scale_products[0, 0])
        delta = _delta(math, q, 2 * x, x, (1 - rho) * (1 + rho))
        weight = float(self.mixture.products[0])
        if derivative:
            return weight * _slope_slope(float(self.mixture.scale_products[0, 0]), delta)
        return weight * _erf_erf(math, x, rho, delta)


class GatedErfMixtureFormula(_MixtureFormula):
    """``f(x) = x (1 + sum_i w_i erf(b_i x)) / 2`` with ``sum_i w_i = 1``: GELU has one term, SiLU is a mixture.

    Terms cancel for ``rho < 0``; the second return value says how far.
    """

    def average(self, q_a: Array, q_b: Array, rho: Array, derivative: bool, tolerance: float) -> tuple[Array, Array]:
        mixture = self.mixture.at(tolerance)

        def chunk(q_a: Array, q_b: Array, rho: Array) -> tuple[Array, Array]:
            left, right, root, delta, _, weights = mixture.pairs(q_a, q_b, rho)
            left, right = (one.reshape(root.shape) for one in np.broadcast_arrays(left, right))
            r = rho[:, None]
            erfs = _erf_erf(np, root, r, delta)
            if derivative:
                slope = _gated_slope(left, right, root, r, delta)
                return (1 + (slope + erfs) @ weights) / 4, (1 + np.abs(slope) @ weights) / 2
            q = np.sqrt(q_a) * np.sqrt(q_b)
            p = rho * q
            outer = _gated_outer(left, right, root, q[:, None], r, (1 - r) * (1 + r), delta)
            return (p + (outer + p[:, None] * erfs) @ weights) / 4, (np.abs(p) + outer @ weights) / 2

        return by_chunks(chunk, mixture.terms, q_a, q_b, rho)

    def _equal_terms(self, mixture: Mixture, q: float, rho: float, derivative: bool) -> tuple[float, float]:
        both, spread, delta = mixture.equal_deltas(q, rho)
        left, right, root = q * mixture.pair_left, q * mixture.pair_right, q * mixture.pair_root
        erfs = _erf_erf(np, root, both, delta)
        if derivative:
            base, terms = np.ones(2), _gated_slope(left, right, root, both, delta) + erfs
        else:
            base = q * both[:, 0]
            terms = _gated_outer(left, right, root, q, both, spread, delta) + q * both * erfs
        return tuple(((base + terms @ mixture.pair_weights) / 4).tolist())

    def _equal_term(self, q: float, rho: float, derivative: bool) -> float:
        x = 2 * q * float(self.mixture.scale_products[0, 0])
        spread = (1 - rho) * (1 + rho)
        delta = _delta(math, q, 2 * x, x, spread)
        erfs = _erf_erf(math, x, rho, delta)
        if derivative:
            return (1 + _gated_slope(x, x, x, rho, delta) + erfs) / 4
        p = q * rho
        return (p + _gated_outer(x, x, x, q, rho, spread, delta) + p * erfs) / 4


def erf_formula() -> ErfMixtureFormula:
    """``erf(x)`` (Williams 1996)."""
    return ErfMixtureFormula(Mixture(np.ones(1), np.ones(1)))


def gelu_formula() -> GatedErfMixtureFormula:
    """``x Phi(x)``."""
    return GatedErfMixtureFormula(Mixture(np.ones(1), np.array([np.sqrt(0.5)])))


def tanh_formula() -> ErfMixtureFormula:
    """``tanh(x)``."""
    return ErfMixtureFormula(_tanh_mixture(1.0))


def silu_formula() -> GatedErfMixtureFormula:
    """``x / (1 + exp(-x)) = x (1 + tanh(x / 2)) / 2``."""
    return GatedErfMixtureFormula(_tanh_mixture(0.5))


def arctan_formula() -> ErfMixtureFormula:
    """``arctan(x)``: ``1 / (1 + x^2) = int_0^inf exp(-s) exp(-s x^2) ds``."""
    return ErfMixtureFormula(_gamma_mixture(lambda s: np.exp(-s), lowest=-44.0))


def isru_formula() -> ErfMixtureFormula:
    """``x / sqrt(1 + x^2)``: ``(1 + x^2)^(-3/2) = (2 / sqrt(pi)) int_0^inf sqrt(s) exp(-s) exp(-s x^2) ds``."""
    return ErfMixtureFormula(_gamma_mixture(lambda s: 2 / np.sqrt(np.pi) * np.sqrt(s) * np.exp(-s), lowest=-32.0))


def _gamma_mixture(density: Callable[[Array], Array], lowest: float) -> Mixture:
    """``f'(x) = int density(s) exp(-s x^2) ds`` by the trapezoidal rule in ``log s``.

    ``lowest`` is the logarithm of the smallest ``s``: what is left out changes ``f`` by less than 1e-12 for
    ``|x| < 1e7``.
    """
    log_s = np.arange(lowest, 3.7, 0.3)
    s = np.exp(log_s)
    weights = density(s) * s * 0.3 * np.sqrt(np.pi / s) / 2
    return Mixture(weights, np.sqrt(s))


def _kolmogorov_density(k: Array) -> Array:
    """Density of the Kolmogorov distribution, by whichever of its two theta series converges at once."""
    k = np.asarray(k, dtype=float)
    j = np.arange(1, 12)[:, None]
    with np.errstate(under="ignore", over="ignore", invalid="ignore"):
        large = 8 * k * np.sum((-1.0) ** (j - 1) * j**2 * np.exp(-2 * j**2 * k**2), axis=0)
        a = (2 * j - 1) ** 2 * np.pi**2 / 8
        small = np.sqrt(2 * np.pi) * np.sum(np.exp(-a / k**2) * (2 * a / k**4 - 1 / k**2), axis=0)
    return np.where(k > 0.9, large, small)


@cache
def _tanh_mixture(stretch: float) -> Mixture:
    """``tanh(stretch x)`` as a positive mixture of error functions.

    The logistic law is a normal law whose deviation is twice a Kolmogorov variable ``k`` (Stefanski 1991), hence
    ``tanh(x) = E erf(x / (sqrt(2) k))``.  The trapezoidal rule in ``log k`` gives it to rounding with few terms, as
    the density falls off doubly exponentially at both ends; ``coarse`` is a Gauss rule of the same measure.
    """
    log_k, step = np.linspace(np.log(0.17), np.log(4.2), 28, retstep=True)
    k = np.exp(log_k)
    weights = _kolmogorov_density(k) * k * step
    fine_log, fine_step = np.linspace(np.log(0.13), np.log(4.8), 400, retstep=True)
    fine = _kolmogorov_density(np.exp(fine_log)) * np.exp(fine_log) * fine_step
    nodes, gauss = gauss_rule(fine_log, fine, 12)
    coarse = Mixture(gauss, stretch * np.exp(-nodes) / np.sqrt(2))
    return Mixture(weights / weights.sum(), stretch / (np.sqrt(2) * k), coarse, coarse_error=1e-8)


def gauss_rule(points: Array, weights: Array, order: int) -> tuple[Array, Array]:
    """Gauss quadrature of the discrete measure ``sum_i weights_i delta(points_i)``: Lanczos, then Golub-Welsch."""
    basis = np.zeros((order, len(points)))
    root = np.sqrt(weights)
    diagonal, off = np.zeros(order), np.zeros(order)
    vector = root / np.linalg.norm(root)
    for k in range(order):
        basis[k] = vector
        image = points * vector
        diagonal[k] = vector @ image
        image -= basis[: k + 1].T @ (basis[: k + 1] @ image)
        image -= basis[: k + 1].T @ (basis[: k + 1] @ image)
        off[k] = np.linalg.norm(image)
        vector = image / off[k]
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(off[:-1], 1) + np.diag(off[:-1], -1))
    return nodes, weights.sum() * vectors[0] ** 2
