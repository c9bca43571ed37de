"""Gaussian moments of ``x -> gamma phi(alpha x + shift) + beta``: the only thing the theory asks of a function."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from criticality.arguments import CORRELATION, VARIANCE, Finite, Positive, check_fields, numbers_within
from criticality.errors import ArgumentError, NotFiniteError, UndescribedError
from criticality.pointwise.closed_forms import KernelFormula
from criticality.pointwise.function import PointwiseFunction
from criticality.pointwise.hermite import ORDERS, grid_resolves, hermite_series, tabulated_coefficients
from criticality.pointwise.kinks import REACH
from criticality.pointwise.named import get_function
from criticality.pointwise.quadrature import (
    SMALL_SIGMA,
    ArrayFunction,
    Singular,
    gaussian_average,
    gaussian_pair_average,
    unresolved,
)
from criticality.shapes import Float, Int

EXACT = 1e-12
"""Tolerance (relative) at which every average is computed unless the caller accepts less."""

_MANY_TERMS = 1000

_MANY_PAIRS = 1000
"""From here on the series is as cheap as a mixture of twelve terms, and for ``q`` below 25 from a third of these."""

_SLOW_PANELS, _SLOW_TERMS = 2000, 500_000
"""Nested panels, and terms of a formula, for pairs of kinks and of tokens at one layer: from there on it takes seconds."""

_INFINITE = 1e90
"""A square of a slope: what is written for the infinite one at a singular kink."""


@dataclass(frozen=True)
class _Pairs:
    """Of inputs: their variances times ``alpha^2``, correlations, and which are one input and itself (``alone``); the ``distinct``
    variances that occur, and which of them are ``left`` and ``right``."""

    s_a: np.ndarray
    s_b: np.ndarray
    rho: np.ndarray
    alone: np.ndarray
    distinct: np.ndarray
    left: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class Pointwise:
    """A pointwise function with the parameters of DyT and Derf, and its Gaussian moments.

    ``f(x) = gamma phi(alpha x + shift) + beta``.  DyT is ``phi = tanh``, ``shift = 0`` (arXiv:2503.10622); Derf is
    ``phi = erf`` (arXiv:2512.10938).  Where ``gamma`` differs between channels, give its root mean square.

    All moments are over zero-mean Gaussian ``x`` of variance ``q`` (shape ``(...)``, any that broadcast), float64,
    relative error at most 1e-10 for ``q`` in [1e-12, 1e12] and every ``rho`` in [-1, 1] when ``phi`` is smooth
    (``C`` and ``Cd`` relative to the largest term where they change sign).  With kinks that are declared, ``V`` and
    ``D`` keep that accuracy and the two-point moments of functions without a closed form are good to about 1e-6.

    Raises:
        ValueError: ``alpha`` not finite and positive; ``gamma``, ``beta`` or ``shift`` not finite; a variance that
            is negative or not finite; a correlation outside [-1, 1]; an unknown function name; a function of one's own
            that the quadrature does not resolve (rules of two orders disagree by more than 1e-9).

    >>> dyt = Pointwise("tanh", alpha=0.5)
    >>> float(dyt.V(1.0).round(6)), float(dyt.D(1.0).round(6))
    (0.173516, 0.179345)
    """

    function: PointwiseFunction | str
    alpha: Positive = 1.0
    shift: Finite = 0.0
    gamma: Finite = 1.0
    beta: Finite = 0.0
    phi: PointwiseFunction = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        phi = get_function(self.function) if isinstance(self.function, str) else self.function
        object.__setattr__(self, "phi", phi)

    def __reduce__(self) -> tuple[Any, ...]:
        return Pointwise, (self.function, self.alpha, self.shift, self.gamma, self.beta)

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """``f(x)``, any shape."""
        return self.gamma * self.phi.value(self.alpha * np.asarray(x, dtype=float) + self.shift) + self.beta

    def mean(self, q: ArrayLike) -> Float[np.ndarray, "..."]:
        """``E f(x)``, the shape of ``q``."""
        return self.gamma * self._one_point(self.phi.value, self.alpha**2 * _variance(q)) + self.beta

    def V(self, q: ArrayLike) -> Float[np.ndarray, "..."]:
        """Second moment ``E f(x)^2``, the shape of ``q`` (docs/theory, equation 2)."""
        return self.C(q, q, 1.0)

    def D(self, q: ArrayLike) -> Float[np.ndarray, "..."]:
        """Second moment of the derivative, ``E f'(x)^2``, ``alpha^2`` included, the shape of ``q``."""
        return self.Cd(q, q, 1.0)

    def both(self, q: ArrayLike) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """``V(q)`` and ``D(q)``: of a function without a closed form by one quadrature instead of two."""
        if self.beta or (self.shift == 0.0 and self.phi.formula is not None and self.phi.formula.terms <= _MANY_TERMS):
            return self.V(q), self.D(q)

        roots = (self.phi.value, self.phi.derivative)

        def squares(u: np.ndarray) -> np.ndarray:
            return np.stack([root(u) ** 2 for root in roots])

        value, slope = self._one_point(squares, self.alpha**2 * _variance(q), roots)
        return self.gamma**2 * value, (self.gamma * self.alpha) ** 2 * slope

    def C(self, q_a: ArrayLike, q_b: ArrayLike, rho: ArrayLike, tolerance: float = EXACT) -> Float[np.ndarray, "..."]:
        """``E f(x_a) f(x_b)`` for variances ``q_a``, ``q_b`` and correlation ``rho``; the arguments broadcast.

        ``tolerance`` (relative) may be raised to trade accuracy for speed where a whole kernel matrix is mapped.
        """
        q_a, q_b, rho = _pair(q_a, q_b, rho)
        value = self.gamma**2 * self._two_point(q_a, q_b, rho, False, tolerance)
        if self.beta:
            value = value + self.beta * (self.mean(q_a) + self.mean(q_b)) - self.beta**2
        return value

    def Cd(self, q_a: ArrayLike, q_b: ArrayLike, rho: ArrayLike, tolerance: float = EXACT) -> Float[np.ndarray, "..."]:
        """``E f'(x_a) f'(x_b)``, ``alpha^2`` included; arguments as for ``C``."""
        q_a, q_b, rho = _pair(q_a, q_b, rho)
        return (self.gamma * self.alpha) ** 2 * self._two_point(q_a, q_b, rho, True, tolerance)

    def pairs(
        self,
        q: Float[np.ndarray, " points"],
        left: Int[np.ndarray, " pairs"],
        right: Int[np.ndarray, " pairs"],
        rho: Float[np.ndarray, " pairs"],
        derivative: bool,
        tolerance: float,
    ) -> Float[np.ndarray, " pairs"]:
        """``C``, or ``Cd``, of many pairs ``(q[left], q[right])`` of few variances, which is cheaper."""
        q_a, q_b, rho = _pair(q[left], q[right], rho)
        value = self._two_point(q_a, q_b, rho, derivative, tolerance, (q, left, right))
        if derivative:
            return (self.gamma * self.alpha) ** 2 * value
        value *= self.gamma**2
        if self.beta:
            mean = self.mean(q)
            value += self.beta * (mean[left] + mean[right]) - self.beta**2
        return value

    def equal(self, q: float, rho: float, derivative: bool, tolerance: float = EXACT) -> tuple[float, float]:
        """``(V, C)`` of two arguments of one variance, or ``(D, Cd)``: floats, unchecked, for recursions over depth."""
        formula = self.phi.formula
        costly = formula is None or formula.cancels or (rho == 1.0 and formula.terms > _MANY_TERMS)
        if formula is None or costly or self.shift or self.beta:
            average = self.Cd if derivative else self.C
            if rho == 1.0:
                value = float(average(q, q, 1.0, tolerance))
                return value, value
            same, other = average(q, q, np.array([1.0, rho]), tolerance).tolist()
            return same, other
        scale = (self.gamma * self.alpha) ** 2 if derivative else self.gamma**2
        same, other = formula.equal(self.alpha**2 * q, rho, derivative, tolerance)
        return scale * same, scale * other

    def _two_point(
        self,
        q_a: np.ndarray,
        q_b: np.ndarray,
        rho: np.ndarray,
        derivative: bool,
        tolerance: float,
        points: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Arguments of one shape; gamma and alpha of the derivative are left to the caller.  ``points``: the variances that
        occur, and which of them are those of each pair."""
        s_a, s_b = self.alpha**2 * q_a, self.alpha**2 * q_b
        formula = self._formula
        if formula is not None and formula.terms > _MANY_TERMS and (rho == 1.0).all() and np.array_equal(s_a, s_b):
            formula = None  # one-dimensional quadrature is cheaper
        # A mixture costs by the pair, the series by the variances that its table is made of.
        many = points is not None and rho.size > max(_MANY_PAIRS, 3 * len(points[0]))
        if formula is None or (many and tolerance > EXACT and formula.terms > 1):
            value = self._series(s_a.ravel(), s_b.ravel(), rho.ravel(), derivative, tolerance, points)
            return value.reshape(rho.shape)
        value, size = formula.average(s_a, s_b, rho, derivative, tolerance)
        cancelled = _cancelled(value, size, tolerance) if formula.cancels or tolerance <= EXACT else np.False_
        if cancelled.any():
            value[cancelled] = self._series(s_a[cancelled], s_b[cancelled], rho[cancelled], derivative, tolerance)
        return value

    def _series(
        self,
        s_a: np.ndarray,
        s_b: np.ndarray,
        rho: np.ndarray,
        derivative: bool,
        tolerance: float,
        points: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Hermite series where its own bound meets the tolerance; closed form or nested panels for the other pairs."""
        function = self.phi.derivative if derivative else self.phi.value
        alone = (rho == 1.0) & (s_a == s_b)
        if alone.all():
            return self._one_point(lambda u: function(u) ** 2, s_a, (function,))
        if points is None:
            distinct, index = np.unique(np.concatenate([s_a, s_b]), return_inverse=True)
            left, right = np.split(index, 2)
        else:
            distinct, left, right = self.alpha**2 * points[0], *points[1:]
        self._check_resolved(function, distinct)
        pairs, value = _Pairs(s_a, s_b, rho, alone, distinct, left, right), np.empty_like(rho)
        hard = self._by_series(function, pairs, value, tolerance)
        if len(hard) and tolerance > EXACT and self._formula is not None:
            hard = self._by_formula(self._formula, pairs, value, hard, derivative, tolerance)
        if len(hard):
            self._by_panels(function, pairs, value, hard, tolerance)
        return value

    def _by_series(self, function: ArrayFunction, pairs: _Pairs, value: np.ndarray, tolerance: float) -> np.ndarray:
        """Writes what the series gives into ``value``, order by order; which pairs are left to others."""
        loose, formula = tolerance > EXACT, self._formula
        hard = np.arange(len(pairs.rho))
        # Interpolation, orders that are dropped and the remainder share what is allowed.
        shared = tolerance / 4 if loose else 0.0
        orders = self._orders(pairs, loose)
        for order in orders:
            coefficients, remainder = tabulated_coefficients(
                function, np.maximum(pairs.distinct, 1e-300), self.shift, self.phi.kinks, order, shared
            )
            total = np.sum(coefficients**2, axis=1) + remainder
            if loose and order == orders[0]:  # the second moment itself, of which the series would want every order
                same = pairs.alone & (pairs.s_a > 0)
                value[same] = total[pairs.left[same]]
                hard = hard[~same]
            a, b, rho = pairs.left[hard], pairs.right[hard], pairs.rho[hard]
            if loose and np.all(remainder <= 2 * shared * total):
                value[hard] = hermite_series(coefficients, a, b, rho, shared)
                return hard[:0]
            bound = np.abs(rho) ** (order + 1) * np.sqrt(remainder)[a] * np.sqrt(remainder)[b]
            if loose:  # what is beyond this order is not computed at it
                beyond = bound > 2 * shared * np.sqrt(total)[a] * np.sqrt(total)[b]
                met = ~beyond
                value[hard[met]] = hermite_series(coefficients, a[met], b[met], rho[met], shared)
            else:
                value[hard] = hermite_series(coefficients, a, b, rho, shared)
                beyond = bound > tolerance * np.abs(value[hard])
            hard = hard[beyond]
            if len(hard) <= (4 * len(pairs.distinct) if formula is not None and loose else 0):
                break
        return hard

    def _orders(self, pairs: _Pairs, loose: bool) -> tuple[int, ...]:
        """Of the series, as many as are cheaper than what comes after it."""
        kinks, formula = self.phi.kinks, self._formula
        higher = loose and (grid_resolves(pairs.distinct, kinks) or (formula is None and bool(kinks)))
        orders = (ORDERS if formula is None else ORDERS[:2]) if higher else ORDERS[:1]
        if kinks and not self._steep and np.count_nonzero(~pairs.alone) <= len(pairs.distinct):
            alike = (np.minimum(pairs.s_a, pairs.s_b) * (1 - pairs.rho**2) <= SMALL_SIGMA**2).all()
            orders = orders[:1] if alike else orders  # nested panels take a fifth of the highest order
        return orders

    def _by_formula(
        self,
        formula: KernelFormula,
        pairs: _Pairs,
        value: np.ndarray,
        hard: np.ndarray,
        derivative: bool,
        tolerance: float,
    ) -> np.ndarray:
        """Writes what the closed form gives into ``value``; of which pairs nothing is left but rounding."""
        if formula.cancels and len(hard) * formula.terms > _SLOW_TERMS:
            self._refuse_slow(len(hard))
        value[hard], size = formula.average(pairs.s_a[hard], pairs.s_b[hard], pairs.rho[hard], derivative, tolerance)
        return hard[_cancelled(value[hard], size, tolerance)] if formula.cancels else hard[:0]

    def _by_panels(
        self, function: ArrayFunction, pairs: _Pairs, value: np.ndarray, hard: np.ndarray, tolerance: float
    ) -> None:
        """Writes quadratures into ``value``: of one dimension where that is enough, else of nested panels."""
        equal, hard = hard[pairs.alone[hard]], hard[~pairs.alone[hard]]
        value[equal] = self._one_point(lambda u: function(u) ** 2, pairs.s_a[equal], (function,))
        kinks = self.phi.kinks
        if tolerance > EXACT and len(hard) * (1 + len(kinks)) ** 2 > (0 if self._steep else _SLOW_PANELS):
            self._refuse_slow(len(hard))
        for i in hard.tolist():
            sigma_a, sigma_b = math.sqrt(pairs.s_a[i]), math.sqrt(pairs.s_b[i])
            value[i] = gaussian_pair_average(function, sigma_a, sigma_b, float(pairs.rho[i]), self.shift, kinks)

    @property
    def _formula(self) -> KernelFormula | None:
        return self.phi.formula if self.shift == 0.0 else None

    @property
    def _steep(self) -> bool:
        return any(isinstance(kink, Singular) for kink in self.phi.kinks)

    def _refuse_slow(self, pairs: int) -> None:
        """A network asks for as many averages at every layer, of every input."""
        if self._steep:
            raise UndescribedError(
                f"function {self.phi.name!r} must have a finite slope for averages over two inputs, which take seconds each"
                " where it is infinite; the sampled way does without them"
            )
        raise UndescribedError(
            f"function {self.phi.name!r} has {len(self.phi.kinks)} kinks, too many for averages over the {pairs} pairs of tokens of"
            " an input that are nearly alike, which would take minutes; the sampled way does without them"
        )

    def _check_resolved(self, function: ArrayFunction, s: np.ndarray) -> None:
        if self.phi.verified:
            return
        bad = unresolved(function, np.sqrt(s[s > 0]), self.shift, self.phi.kinks)
        if len(bad):
            steep = [kink for kink in self.phi.kinks if _not_square_integrable(function, kink)]
            if steep:
                raise ArgumentError(
                    f"function {self.phi.name!r} must have a slope whose square has a finite mean, but at x = {steep[0]:g} it grows"
                    " like 1/|x| or faster: gradients are infinite at any depth"
                )
            kinks = ", ".join(f"{kink:g}" for kink in self.phi.kinks[:6]) or "none"
            kinks += ", ..." if len(self.phi.kinks) > 6 else ""
            raise ArgumentError(
                f"function {self.phi.name!r} must be smooth at scale one away from its kinks ({kinks}), with finite moments of"
                f" value and slope, but is not resolved at alpha^2 q = {bad[0] ** 2:g}; kinks beyond the scan of |x| <= {REACH:g}"
                " are declared as kinks=(0.0, 1.0) or FILE.py:NAME@kinks=0,1"
            )

    def _one_point(self, function: ArrayFunction, s: np.ndarray, roots: tuple[ArrayFunction, ...] = ()) -> np.ndarray:
        """``E function``, of several along leading axes; ``roots`` are what they are the squares of, if they are."""
        flat = np.atleast_1d(s).ravel()
        for root in roots or (function,):
            self._check_resolved(root, flat)
        zero = flat == 0.0
        value = np.repeat(function(np.array([self.shift])), len(flat), axis=-1)
        if not (np.abs(value[..., zero]) < _INFINITE).all():
            raise NotFiniteError(f"q=0.0 must be above 0: the slope of {self.phi.name!r} is infinite at {self.shift:g}")
        rest = np.flatnonzero(~zero)
        for start in range(0, len(rest), 2000):
            chunk = rest[start : start + 2000]
            value[..., chunk] = gaussian_average(function, np.sqrt(flat[chunk]), self.shift, self.phi.kinks)
        return value.reshape(value.shape[:-1] + np.shape(s))


def _not_square_integrable(function: ArrayFunction, kink: float) -> bool:
    """Whether ``f^2`` grows like one over the distance to a kink, or faster."""
    distance = np.array([1e-12, 1e-6])
    near, far = distance * np.maximum(function(kink - distance) ** 2, function(kink + distance) ** 2)
    return bool(near > 0.5 * far > 0.0)


def _cancelled(value: np.ndarray, size: np.ndarray, tolerance: float) -> np.ndarray:
    """Where rounding of the largest term is above the tolerance of the sum."""
    cancelled: np.ndarray = np.abs(value) < 1e-15 / tolerance * size
    return cancelled


def _variance(q: ArrayLike, name: str = "q") -> np.ndarray:
    return numbers_within(VARIANCE, name, q)


def _pair(q_a: ArrayLike, q_b: ArrayLike, rho: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    arrays = _variance(q_a, "q_a"), _variance(q_b, "q_b"), numbers_within(CORRELATION, "rho", rho)
    try:
        q_a, q_b, rho = np.broadcast_arrays(*arrays)
    except ValueError:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ArgumentError(f"q_a, q_b and rho must broadcast, and have the shapes {shapes}") from None
    return q_a, q_b, rho
