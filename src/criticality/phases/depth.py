"""``log J(0 -> L)`` of ``x <- x + W norm(x) + b`` at any depth: the recursion at first, then its continuous equivalent.

A step adds ``f(q)`` to the variance and ``g(q)`` to the logarithm.  Once ``f`` changes little from step to step, the
sequence is the flow of ``dq/dl = F(q)`` at whole ``l``, with ``F = f - f f'/2 + f (f'^2/3 + f f''/12) + ...`` (backward
error analysis), and sums over it are integrals of ``G = g - (F g')/2 + F (F g')'/12 + ...`` (Euler-Maclaurin).  Both are
integrated over ``log l``, so that depth 10^9 costs about as much as a few hundred layers (docs/theory, section 7).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.integrate import solve_ivp

from criticality.theory.kernels import SymmetricKernel
from criticality.theory.norms import Norm, PointwiseNorm

_SMALL_CHANGE = 2e-3
"""``f'`` below which the continuous equivalent takes over: its error is of order ``f'^3`` a step."""

_LONGEST_LOOP = 200_000
_LARGE = 1e100  # a variance beyond which chi has come to its limit


@dataclass(frozen=True)
class ResidualStep:
    """One layer ``x <- x + W norm(x) + b`` at infinite width.

    Attributes:
        norm: any norm of the theory.
        weight_variance, bias_variance: ``sigma_w^2`` and ``sigma_b^2``.
    """

    norm: Norm
    weight_variance: float = 1.0
    bias_variance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weight_variance", "bias_variance"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value!r} must be a finite variance, 0 or above")

    def both(self, q: float) -> tuple[float, float]:
        """``f(q)``, the growth of the variance, and ``g(q) = log chi``."""
        if isinstance(self.norm, PointwiseNorm):
            pointwise = self.norm.pointwise
            value, slope = pointwise.equal(q, 1.0, False)[0], pointwise.equal(q, 1.0, True)[0]
        else:
            state = SymmetricKernel.of(q, 0.0, 1)
            value, slope = float(self.norm.forward(state).q), float(self.norm.factor(state).q)
        return self.weight_variance * value + self.bias_variance, math.log1p(self.weight_variance * slope)


def amplification(step: ResidualStep, depths: Sequence[float], q0: float = 1.0) -> Float[np.ndarray, " depths"]:
    """``log J(0 -> L)`` for every depth, relative error about 1e-7.

    Args:
        step: the layer.
        depths: whole numbers, in any order, as large as wanted.
        q0: variance of the input.

    Raises:
        ValueError: a depth below 1 or a variance that is not positive and finite.
    """
    wanted = np.asarray(depths, dtype=float)
    if wanted.size == 0 or not np.all((wanted >= 1) & np.isfinite(wanted)):
        raise ValueError(f"depths={list(depths)!r} must be whole numbers, 1 or above")
    if not (math.isfinite(q0) and q0 > 0):
        raise ValueError(f"q0={q0!r} must be a finite variance above 0")
    order = np.sort(np.unique(wanted))
    found: dict[float, float] = {}
    layer, q, total = _loop(step, order, q0, found)
    rest = order[order > layer]
    if len(rest):
        tail = _exponential(step, layer, q, total, rest) if layer >= _LONGEST_LOOP or q > _LARGE else None
        found.update(zip(rest, _flow(step, layer, q, total, rest) if tail is None else tail, strict=True))
    return np.array([found[depth] for depth in wanted])


def _loop(
    step: ResidualStep, order: Float[np.ndarray, " depths"], q: float, found: dict[float, float]
) -> tuple[int, float, float]:
    """The recursion, until all depths are found or the change from step to step is small; fills ``found``."""
    layer, total, before = 0, 0.0, math.inf
    asked = set(order.tolist())
    while layer < order[-1]:
        f, g = step.both(q)
        slow = layer >= 64 and abs(f - before) <= _SMALL_CHANGE * before and f <= 0.05 * q
        if (slow and order[-1] > 2 * layer) or layer >= _LONGEST_LOOP or q > _LARGE:
            break
        q, total, before, layer = q + f, total + g, f, layer + 1
        if layer in asked:
            found[float(layer)] = total
    return layer, q, total


def _exponential(
    step: ResidualStep, layer: int, q: float, total: float, rest: Float[np.ndarray, " depths"]
) -> Float[np.ndarray, " depths"]:
    """Where the variance itself grows exponentially, chi has come to its limit."""
    return total + (rest - layer) * step.both(min(q, _LARGE))[1]


def _flow(
    step: ResidualStep, layer: int, q: float, total: float, rest: Float[np.ndarray, " depths"]
) -> Float[np.ndarray, " depths"]:
    def derivatives(q: float) -> tuple[float, float]:
        """``F`` and ``G`` from values at five points around ``q``, differences of fourth order in ``log q``."""
        h = 0.02
        points = [step.both(q * math.exp(k * h)) for k in (-2, -1, 0, 1, 2)]
        f, g = ([value[i] for value in points] for i in (0, 1))
        f1, f2 = _differences(f, h, q)
        g1, g2 = _differences(g, h, q)
        flow = f[2] * (1 - f1 / 2 + f1 * f1 / 3 + f[2] * f2 / 12)
        slope = f1 * (1 - f1 / 2)  # of F, to the order that is needed below
        return flow, g[2] - flow * g1 / 2 + flow * (slope * g1 + flow * g2) / 12

    def right(s: float, y: np.ndarray) -> list[float]:
        flow, gain = derivatives(math.exp(y[0]))
        depth = math.exp(s)
        return [depth * flow / math.exp(y[0]), depth * gain]

    start = math.log(layer)
    ends = np.log(rest)
    solution = solve_ivp(
        right, (start, float(ends[-1])), [math.log(q), total], method="DOP853", t_eval=ends, rtol=1e-10, atol=1e-10
    )
    if not solution.success:
        raise ValueError(f"depths up to {rest[-1]:g} must be reached, but integration stopped: {solution.message}")
    values: np.ndarray = solution.y[1]
    return values


def _differences(values: Sequence[float], h: float, q: float) -> tuple[float, float]:
    """First and second derivative by ``q`` from values at ``q exp(k h)``, ``k = -2 .. 2``."""
    a, b, c, d, e = values
    by_log = (a - 8 * b + 8 * d - e) / (12 * h)
    by_log2 = (-a + 16 * b - 30 * c + 16 * d - e) / (12 * h * h)
    return by_log / q, (by_log2 - by_log) / (q * q)
