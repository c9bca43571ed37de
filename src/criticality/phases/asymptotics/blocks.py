"""What repeated blocks of any branches come to at great depth: their maps expanded in ``q^(-1/2)`` at the correlation they tend to.

A block adds ``F`` to ``q`` and ``P`` to ``p`` and acts on ``(u, v)`` by a 2 x 2 matrix ``M``, all functions of ``(q, rho)``,
which the library's own sub-layers give. Equations: docs/theory, section 7.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from criticality.errors import ArgumentError
from criticality.lazy import lazy_module
from criticality.phases.asymptotics.laws import PowerLaw, StretchedLaw
from criticality.phases.depth import BlockStep
from criticality.phases.tails import saturation_deficit
from criticality.theory.kernels import Numbers
from criticality.theory.norms import PointwiseNorm

integrate, optimize = lazy_module("scipy.integrate"), lazy_module("scipy.optimize")

_ROOTS = 3e-4 * np.arange(1.0, 6.0)
"""Values of ``(alpha^2 q)^(-1/2)`` from which the expansion of a bounded norm is read."""

_INVERSES = 1e-4 * np.arange(1.0, 4.0)
"""Values of ``1 / q`` from which that of LayerNorm is."""

_MIXES = 1e-7
"""Part of a gradient that has to come from other tokens for them to mix."""

_NEAREST = 1e-9
"""Of a correlation to one: nearer, it counts as one."""


class Block:
    """What one block does to states of variance ``q`` and correlation ``rho``."""

    def __init__(self, step: BlockStep):
        self.step = step

    def added(self, q: float, rho: float) -> float:
        """``F``."""
        return q * math.expm1(self._moved(q, rho)[0, 0])

    def pull(self, q: float, rho: Numbers) -> np.ndarray:
        """``P - rho F``: which way correlations go."""
        grown, turned = self._moved(q, rho)
        pull: np.ndarray = turned * q * np.exp(grown)
        return pull

    def growth(self, q: float, rho: float) -> np.ndarray:
        """``M - 1``."""
        state = np.stack(np.broadcast_arrays(math.log(q), np.full(2, rho), np.array([0.0, 1.0]), 0.0))
        _, _, turned, grown = self.step.change(state)
        first = np.expm1(grown)  # of (a, b) = (1, 0) and (1, 1): M_uu, and its sum with M_vu
        second = turned + (turned + np.array([0.0, 1.0])) * first
        return np.array([[first[0], second[0]], [first[1] - first[0], second[1] - second[0]]])

    def correlation(self, q: float, start: float) -> float:
        """Where the correlation goes at a variance that is held, from ``start``; 1 where nothing stops it before."""
        return self._turn(q, *self._bracket(q, start))

    def correlations(self, variances: list[float], start: float) -> np.ndarray:
        """``correlation`` at variances so large that it stops near the same place at all of them."""
        low, high = self._bracket(variances[0], start)
        return np.array(
            [
                self._turn(q, low, high)
                if low == high or np.prod(np.sign(self.pull(q, np.array([low, high])))) < 0
                else self.correlation(q, start)
                for q in variances
            ]
        )

    def _bracket(self, q: float, start: float) -> tuple[float, float]:
        """Two correlations between which it stops; 1 or -1, twice, where nothing stops it."""
        if self.step.tokens == 1:
            return 1.0, 1.0
        rises = float(self.pull(q, start)[0]) >= 0
        end = 1.0 if rises else -1.0
        way = end - (end - start) * np.geomspace(1.0, _NEAREST, 60)
        for first in range(0, len(way), 10):  # in parts, as correlations near 1 take longest
            turns = np.flatnonzero(self.pull(q, way[first + 1 : first + 11]) * end < 0)
            if len(turns):
                return float(way[first + turns[0]]), float(way[first + turns[0] + 1])
        return end, end

    def _turn(self, q: float, low: float, high: float) -> float:
        if low == high:
            return low
        return float(optimize.brentq(lambda c: float(self.pull(q, c)[0]), low, high, xtol=1e-14, rtol=1e-13))

    def _moved(self, q: float, rho: Numbers) -> np.ndarray:
        return self.step.forward_change(*np.broadcast_arrays(np.atleast_1d(math.log(q)), rho))


def power_law(step: BlockStep) -> PowerLaw:
    """Exponents of ``J ~ L^zeta`` of blocks whose norms are all LayerNorms.

    There ``M = 1 + A / q`` with ``q ~ F l``, so that both modes of ``(u, v)`` are powers of depth: the eigenvalues of ``A / F``
    at the correlation that tokens tend to. At correlation one the modes are the difference ``u - v`` and the common mode
    ``u + (T-1) v``.

    Raises:
        ValueError: blocks that add nothing to the stream.
    """
    block = Block(step)
    rho = block.correlation(1 / _INVERSES[0], step.rho0)
    grown = _limit([block.added(1 / x, rho) for x in _INVERSES])
    _check_grown(grown)
    a = _limit([block.growth(1 / x, rho) / x for x in _INVERSES]) / grown
    if abs(a[0, 1]) < _MIXES:
        return PowerLaw(float(a[0, 0]), float(a[0, 0]), rho)
    difference, common = _eigenvalues(a)
    if common - difference < 1e-6:
        return PowerLaw(difference, common, rho)
    digits = math.log10(step.tokens) / (common - difference)
    return PowerLaw(difference, common, rho, 10**digits if digits < 300 else math.inf)


def stretched_law(step: BlockStep, q0: float = 1.0) -> StretchedLaw:
    """``log J`` of blocks that have a bounded norm, ``exponent`` 1/2.

    With ``e = q^(-1/2)`` and the correlation held at ``c*``, a block adds ``F0 + F1 e`` to ``q`` and multiplies ``J`` by the larger
    eigenvalue of ``M``, whose logarithm is ``g1 e + g2 e^2``. Summed:
    ``log J = 2 g1 sqrt(L / F0) + (g2 / F0 - g1 F1 / F0^2) log L``.
    Where tokens mix, ``F`` depends on the correlation, which comes to ``c*`` as ``L^-relaxation``, and the next order is
    ``L^(1/2 - relaxation)`` with a coefficient that depends on the input: no logarithm is given.

    Raises:
        ValueError: blocks that add nothing to the stream.
    """
    block = Block(step)
    roots = min(norm.pointwise.alpha for norm in _pointwise(step)) * _ROOTS
    star = float(_series(block.correlations([e**-2 for e in roots], step.rho0), roots)[0])
    grown = _series(np.array([block.added(e**-2, star) for e in roots]), roots)
    _check_grown(grown[0])
    growth = [block.growth(e**-2, star) for e in roots]
    gains = [math.log1p(_eigenvalues(one)[1]) for one in growth]
    _, first, second = _series(np.array([0.0, *gains]), np.array([0.0, *roots]))[:3]
    found = StretchedLaw(0.5, float(2 * first / math.sqrt(grown[0])), crossover_depth=block_crossover_depth(step, q0))
    if abs(growth[0][0, 1]) > _MIXES * roots[0]:
        return replace(found, correlation=star, relaxation=_relaxation(block, roots, star, grown[0]))
    if any(not math.isfinite(saturation_deficit(norm.pointwise.phi)) for norm in _pointwise(step)):
        return found
    return replace(found, logarithm=float(second / grown[0] - first * grown[1] / grown[0] ** 2))


def _relaxation(block: Block, roots: np.ndarray, star: float, grown: float) -> float:
    """``kappa`` of ``rho - c* ~ L^-kappa``: minus the slope of ``P - rho F`` over ``F``, nan at ``c* = 1``, where it has none."""
    width = 1e-3 * (1 - star)
    if width < 1e-8:
        return math.nan
    slopes = [float(np.diff(block.pull(e**-2, star + np.array([-width, width])))[0]) / (2 * width) for e in roots]
    return float(-_series(np.array(slopes), roots)[0] / grown)


def block_crossover_depth(step: BlockStep, q0: float = 1.0) -> float:
    """Blocks until ``alpha^2 q = 1`` for the steepest of the pointwise norms; 0 where it is so at the input.

    ``l* = int dy / f + (1/2) log(f(end) / f(start))`` over ``y = log q``, ``f`` the change of ``y`` by a block (Euler-Maclaurin).
    """
    end = -2 * math.log(max(norm.pointwise.alpha for norm in _pointwise(step)))
    start = math.log(q0)
    if start >= end:
        return 0.0

    def change(y: float, rho: float) -> np.ndarray:
        return step.forward_change(np.array([y]), np.array([rho]))[:, 0]

    def flow(y: float, state: np.ndarray) -> list[float]:
        grown, turned = change(y, float(np.clip(state[1], -1.0, 1.0)))
        return [1 / grown, turned / grown]

    rho0 = float(step.start(q0)[1])
    solution = integrate.solve_ivp(flow, (start, end), [0.0, rho0], method="LSODA", rtol=1e-8, atol=1e-8)
    depth, rho = solution.y[:, -1]
    return float(depth + 0.5 * math.log(change(end, float(np.clip(rho, -1.0, 1.0)))[0] / change(start, rho0)[0]))


def _pointwise(step: BlockStep) -> list[PointwiseNorm]:
    norms = (norm for part in step.network.last_block for norm in part.entry_norms)
    return [norm for norm in norms if isinstance(norm, PointwiseNorm)]


def _series(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Coefficients, in rising powers, of the polynomial through the values."""
    unit = places[-1]
    coefficients = np.linalg.solve(np.vander(places / unit, increasing=True), values)
    found: np.ndarray = coefficients / unit ** np.arange(len(places))
    return found


def _limit(values: list[Any]) -> Any:
    """At ``1 / q = 0``, by the parabola through values at ``_INVERSES``, which are equally spaced from 0."""
    return 3 * values[0] - 3 * values[1] + values[2]


def _eigenvalues(matrix: np.ndarray) -> tuple[float, float]:
    """The smaller and the larger one of a 2 x 2 matrix, both real."""
    (a, b), (c, d) = matrix
    spread = math.sqrt(max(((a - d) / 2) ** 2 + b * c, 0.0))
    return float((a + d) / 2 - spread), float((a + d) / 2 + spread)


def _check_grown(grown: float) -> None:
    if not grown > 0:
        raise ArgumentError(f"network must add a variance to its stream in every block, and adds {grown:g}")
