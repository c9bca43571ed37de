"""``log J(0 -> L)`` at any depth: the recursion at first, then its continuous equivalent.

A layer adds ``f(y)`` to a state ``y`` of a few numbers, ``log J`` among them.  Once ``f`` changes little from layer to
layer, the sequence is the flow of ``dy/dl = F(y)`` at whole ``l``, with ``F = f - f'f/2 + f'f'f/3 + f''(f, f)/12 + ...``
(backward error analysis).  It is integrated over ``log l``, so that depth 10^9 costs about as much as a few hundred layers
(docs/theory, section 7).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike

from criticality.arguments import Correlation, Count, Scale, Start, check_fields, checked, shown
from criticality.errors import ArgumentError, NotFiniteError, UnreachableError
from criticality.lazy import lazy_module
from criticality.shapes import Float
from criticality.theory.attention import ScoreSampling
from criticality.theory.kernels import Numbers, SymmetricKernel
from criticality.theory.layer import Layer
from criticality.theory.network import Network, Sublayer
from criticality.theory.norms import Norm

integrate = lazy_module("scipy.integrate")

_SMALL_CHANGE = 2e-3
"""Relative change of ``f`` from layer to layer below which the continuous equivalent takes over."""

_DEEPEST = 1e15
_ROUNDING = 1e-13
_LONGEST_LOOP = 200_000
_LARGE = math.log(1e100)  # of a variance: beyond it chi has come to its limit

_NO_SAMPLES = ScoreSampling(2, 0)
"""Equivalent tokens sample nothing."""

State = Float[np.ndarray, "variables"]


class Step(Protocol):
    """One layer as a map of states; the first variable is ``log q``, the last is ``log J``."""

    tolerance: ClassVar[float]
    """At which its flow is integrated: above the noise of ``change``, or steps would become tiny."""

    solver: ClassVar[str]
    """Of ``scipy.integrate.solve_ivp``; an implicit one where some variables relax faster than others."""

    def start(self, q0: float) -> State:
        """The state at the input."""
        ...

    def change(self, states: Float[np.ndarray, "variables points"]) -> Float[np.ndarray, "variables points"]:
        """What the layer adds to each of several states."""
        ...


@dataclass(frozen=True)
class ResidualStep:
    """One layer ``x <- x + W norm(x) + b`` at infinite width; its state is ``(log q, log J)``.

    Attributes:
        norm: any norm of the theory.
        weight_variance, bias_variance: ``sigma_w^2`` and ``sigma_b^2``.
    """

    tolerance: ClassVar[float] = 1e-10
    solver: ClassVar[str] = "DOP853"
    norm: Norm
    weight_variance: Scale = 1.0
    bias_variance: Scale = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def start(self, q0: float) -> State:
        return np.array([math.log(q0), 0.0])

    def change(self, states: Float[np.ndarray, "variables points"]) -> Float[np.ndarray, "variables points"]:
        q = np.exp(states[0])
        one = len(q) == 1  # without the overhead of arrays
        added, gain = Layer(self.norm, self.weight_variance, self.bias_variance).branch(float(q[0]) if one else q)
        return np.stack([np.log1p(added / q), np.log1p(np.reshape(gain, q.shape))])


@dataclass(frozen=True)
class BlockStep:
    """One block of a network of equivalent tokens, repeated: that of its last sub-layers.

    Its state is ``(log q, p / q, b / a, log a)``, where ``(a, b)`` is the first row of the product of the backward maps
    ``(u, v) <- M (u, v)`` up to here: ``a = J(0 -> l)`` for every depth ``l`` in one pass forward.

    Attributes:
        network: all sub-layers of its last block are taken.
        tokens: how many are equivalent.
        rho0: their correlation at the input.
        branch_scale: factor on every branch, one number or one for each state: ``phi(alpha x)`` in all norms is
            ``phi(x)`` with every branch and the input scaled by ``alpha``.
    """

    tolerance: ClassVar[float] = 1e-7
    solver: ClassVar[str] = "LSODA"
    network: Network
    tokens: Count = 1
    rho0: Correlation = 0.0
    branch_scale: Numbers = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not (np.all(np.isfinite(self.branch_scale)) and np.all(np.asarray(self.branch_scale) > 0)):
            raise ArgumentError(f"branch_scale={self.branch_scale!r} must be finite and above 0")
        if np.any(self.branch_scale != 1.0) and any(part.placement == "post" for part in self.network.sublayers):
            raise ArgumentError(f"branch_scale={self.branch_scale!r} must be 1 with post-norm sub-layers")

    def start(self, q0: float) -> State:
        return np.array([math.log(q0), 1.0 if self.tokens == 1 else self.rho0, 0.0, 0.0])

    def change(self, states: Float[np.ndarray, "variables points"]) -> Float[np.ndarray, "variables points"]:
        log_q, rho, ratio, _ = states
        kernel = self._kernel(log_q, rho)
        units = kernel.with_entries(*np.eye(2)[:, :, None])
        a, b, square = np.ones_like(log_q), ratio, np.square(self.branch_scale)
        for sublayer, before, entered, output, after in self._passes(kernel):
            back = sublayer.backward(before, units, _NO_SAMPLES, entered, output)
            (u_of_u, u_of_v), (v_of_u, v_of_v) = np.asarray(back.q), np.asarray(back.p)
            a, b = (
                a + square * (a * (u_of_u - 1) + b * v_of_u),
                b + square * (a * u_of_v + b * (v_of_v - 1)),
            )
            kernel = after
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([*_moved(kernel, log_q, rho), b / a - ratio, np.log(a)])

    def forward_change(
        self, log_q: Float[np.ndarray, " points"], rho: Float[np.ndarray, " points"]
    ) -> Float[np.ndarray, "2 points"]:
        """``change`` of ``log q`` and ``rho`` alone, without the gradients, which takes half as long."""
        kernel = self._kernel(log_q, rho)
        for *_, after in self._passes(kernel):
            kernel = after
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack(_moved(kernel, log_q, rho))

    def _kernel(self, log_q: np.ndarray, rho: np.ndarray) -> SymmetricKernel:
        q = np.exp(log_q)
        p = q * np.clip(rho, -1.0, 1.0)
        one = len(q) == 1  # without the overhead of arrays
        return SymmetricKernel(float(q[0]), float(p[0]), self.tokens) if one else SymmetricKernel(q, p, self.tokens)

    def _passes(self, kernel: SymmetricKernel) -> Iterator[tuple[Sublayer, SymmetricKernel, Any, Any, SymmetricKernel]]:
        """Each sub-layer with the kernel before it, what enters and leaves its branch, and the kernel after it."""
        square = np.square(self.branch_scale)
        for sublayer in self.network.last_block:
            entered, output = sublayer.passed(kernel, _NO_SAMPLES)
            joined = sublayer.joined(kernel, output)
            after = kernel.with_entries(
                kernel.q + square * (joined.q - kernel.q), kernel.p + square * (joined.p - kernel.p)
            )
            yield sublayer, kernel, entered, output, after
            kernel = after


def _moved(kernel: SymmetricKernel, log_q: np.ndarray, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    after_q, after_p = np.asarray(kernel.q), np.asarray(kernel.p)
    return np.log(after_q / np.exp(log_q)), after_p / after_q - rho


@checked
def amplification(step: Step, depths: ArrayLike, q0: Start = 1.0) -> Float[np.ndarray, " depths"]:
    """``log J(0 -> L)`` for every depth, relative error about 1e-7 (1e-6 for a ``BlockStep``).

    Args:
        step: the layer, ``ResidualStep`` or ``BlockStep``.
        depths: whole numbers, in any order, as large as wanted.
        q0: variance of the input.

    Raises:
        ValueError: a depth below 1 or a variance that is not positive and finite; a susceptibility that stops being
            finite, as that of attention without any norm does once scores grow without bound.
    """
    wanted = np.atleast_1d(np.asarray(depths, dtype=float))
    if wanted.size == 0 or not np.all((wanted >= 1) & (wanted <= _DEEPEST)):
        raise ArgumentError(f"depths={shown(depths)} must be whole numbers from 1 to {_DEEPEST:g}")
    order = np.sort(np.unique(wanted))
    found: dict[float, float] = {}
    layer, state = _loop(step, order, q0, found)
    rest = order[order > layer]
    if len(rest):
        if layer >= _LONGEST_LOOP or state[0] > _LARGE:  # the variance grows exponentially: chi has come to its limit
            state[0] = min(state[0], _LARGE)
            values = state[-1] + (rest - layer) * step.change(state[:, None])[-1, 0]
        else:
            values = _flow(step, layer, state, rest)
        found.update(zip(rest, values, strict=True))
    return np.array([found[depth] for depth in wanted])


def _loop(step: Step, order: Float[np.ndarray, " depths"], q0: float, found: dict[float, float]) -> tuple[int, State]:
    """The recursion, until all depths are found or the change from layer to layer is small; fills ``found``."""
    layer, state, before = 0, step.start(q0), np.full(1, math.inf)
    asked = set(order.tolist())
    while layer < order[-1]:
        added = step.change(state[:, None])[:, 0]
        if not np.all(np.isfinite(added)):
            raise NotFiniteError(
                f"network must have a finite susceptibility at every depth, but has none after {layer} layers"
            )
        slow = (
            layer >= 64
            and added[0] <= 0.05
            and float(np.max(np.abs(added - before))) <= max(_SMALL_CHANGE * float(np.max(np.abs(added))), _ROUNDING)
        )
        if (slow and order[-1] > 2 * layer) or layer >= _LONGEST_LOOP or state[0] > _LARGE:
            break
        state, before, layer = state + added, added, layer + 1
        if layer in asked:
            found[float(layer)] = float(state[-1])
    return layer, state


def _flow(step: Step, layer: int, state: State, rest: Float[np.ndarray, " depths"]) -> Float[np.ndarray, " depths"]:
    reach = 0.02
    along = reach * np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    across = reach * np.array([-1.0, 1.0])

    def moved(direction: State) -> np.ndarray:
        """Without ``log J``, on which nothing depends."""
        return np.append(direction[:-1], 0.0)[:, None]

    def derivative(y: State) -> State:
        """``F`` from ``f`` at five points along ``f`` and two along ``f'f``."""
        f = step.change(y[:, None])[:, 0]
        size = float(np.max(np.abs(f[:-1])))
        if size < _ROUNDING:  # a fixed point
            return f
        a, b, c, d, e = (step.change(y[:, None] + moved(f) / size * along)).T
        first = (a - 8 * b + 8 * d - e) / (12 * reach) * size
        second = (-a + 16 * b - 30 * c + 16 * d - e) / (12 * reach**2) * size**2
        bend = float(np.max(np.abs(first[:-1])))
        third = np.zeros_like(f)
        if bend > 0.0:
            left, right = (step.change(y[:, None] + moved(first) / bend * across)).T
            third = (right - left) / (2 * reach) * bend
        whole: State = f - first / 2 + third / 3 + second / 12
        return whole

    def right_side(s: float, y: State) -> State:
        """Nan, on which the solver takes a shorter step, where a trial step leads out of what states can be."""
        possible = bool(np.all(np.isfinite(y))) and abs(y[0]) < 1.2 * _LARGE
        return math.exp(s) * derivative(y) if possible else np.full_like(y, np.nan)

    ends = np.log(rest)
    span, allowed = (math.log(layer), float(ends[-1])), step.tolerance

    def beyond(s: float, y: State) -> float:
        """Zero where the variance has grown so large that chi has come to its limit."""
        return float(y[0]) - _LARGE

    beyond.terminal = True  # type: ignore[attr-defined]
    solution = integrate.solve_ivp(
        right_side, span, state, method=step.solver, t_eval=ends, rtol=allowed, atol=allowed, events=beyond
    )
    if not solution.success:
        raise UnreachableError(
            f"depths up to {rest[-1]:g} must be reached, but integration stopped: {solution.message}"
        )
    values: np.ndarray = solution.y[-1]
    if solution.status == 1:
        (where,), (last,) = solution.t_events[0], solution.y_events[0]
        left = rest[len(values) :]
        rate = step.change(np.array([[_LARGE], *([entry] for entry in last[1:])]))[-1, 0]
        values = np.append(values, last[-1] + (left - math.exp(where)) * rate)
    return values
