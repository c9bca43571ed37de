"""Phase diagrams: many networks of one function at once, and the critical line by root finding.

One layer of a network without norm is ``x <- skip x + W phi(alpha x) + b``: ``q <- skip^2 q + sigma_w^2 V(alpha^2 q) +
sigma_b^2`` and ``chi = skip^2 + sigma_w^2 alpha^2 D(alpha^2 q)``; ``skip = 0`` is a plain MLP seen at its preactivations
(Poole et al. 2016, Schoenholz et al. 2017), ``skip = 1`` a residual network.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from criticality.arguments import (
    Correlation,
    Depth,
    Number,
    Positive,
    Scale,
    Size,
    Start,
    Threads,
    checked,
    numbers_within,
)
from criticality.errors import CriticalityError
from criticality.lazy import lazy_module
from criticality.phases.depth import BlockStep
from criticality.pointwise import Pointwise, PointwiseFunction
from criticality.theory.network import Network, scale_weights
from criticality.theory.norms import LayerNorm, PointwiseNorm

optimize = lazy_module("scipy.optimize")

_STEP = 1 / 24
_CHUNK = 1 << 14
_LOWEST, _HIGHEST = -60.0, 60.0


class MomentTable:
    """``V`` and ``D`` of ``phi`` on a grid in ``log q``, with cubic Hermite interpolation between.

    The error, relative to the value, is below 1e-9 for functions whose moments vary over a factor of e or more; it is
    measured, not assumed: ``error()``.
    """

    def __init__(self, function: PointwiseFunction, low: float, high: float):
        if not _LOWEST <= low <= high <= _HIGHEST:
            ends = f"exp({_LOWEST:g}) and exp({_HIGHEST:g})"
            raise ValueError(f"variances between exp({low:g}) and exp({high:g}) must lie within {ends}")
        self.pointwise = Pointwise(function)
        self.start = math.floor(low / _STEP) * _STEP - 2 * _STEP
        self.nodes = math.ceil((high - self.start) / _STEP) + 4
        grid = self.start + _STEP * np.arange(-2, self.nodes + 2)
        self._cubics = [
            self._coefficients(np.log(moment(np.exp(grid)))) for moment in (self.pointwise.V, self.pointwise.D)
        ]

    @staticmethod
    def _coefficients(y: np.ndarray) -> np.ndarray:
        """Powers of the place within each interval, from fourth-order slopes at the nodes; shape ``(nodes - 1, 4)``."""
        slope = (y[:-4] - 8 * y[1:-3] + 8 * y[3:-1] - y[4:]) / 12
        left, right, a, b = y[2:-3], y[3:-2], slope[:-1], slope[1:]
        rise = right - left
        return np.stack([left, a, 3 * rise - 2 * a - b, a + b - 2 * rise], axis=1)

    def both(self, log_q: Float[np.ndarray, " points"]) -> tuple[np.ndarray, np.ndarray]:
        """``V`` and ``D`` at ``exp(log_q)``, clipped to the range of the table."""
        place = np.clip((log_q - self.start) / _STEP, 0.0, self.nodes - 2.0)
        index = place.astype(np.intp)
        place -= index
        value, slope = (np.exp(_cubic(table, index, place)) for table in self._cubics)
        return value, slope

    def error(self) -> float:
        """The largest relative error of ``V`` and ``D``, seen half-way between nodes."""
        middle = self.start + _STEP * (np.arange(3, self.nodes - 4, 7) + 0.5)
        found = self.both(middle)
        exact = self.pointwise.V(np.exp(middle)), self.pointwise.D(np.exp(middle))
        return float(max(np.max(np.abs(a / b - 1)) for a, b in zip(found, exact, strict=True)))


class NormTable:
    """``MomentTable`` of LayerNorm or RMSNorm, where both are known: ``V = q / (q + epsilon)``, ``D = 1 / (q + epsilon)``."""

    def __init__(self, norm: LayerNorm):
        self.norm = norm

    def both(self, log_q: Float[np.ndarray, " points"]) -> tuple[np.ndarray, np.ndarray]:
        q = np.exp(log_q)
        slope = self.norm.gamma**2 / (q + self.norm.epsilon)
        return q * slope + self.norm.beta**2, slope


def _cubic(table: np.ndarray, index: np.ndarray, place: np.ndarray) -> np.ndarray:
    c = table[index]
    value: np.ndarray = ((c[:, 3] * place + c[:, 2]) * place + c[:, 1]) * place + c[:, 0]
    return value


_KINDS = {
    "weight_variance": Number(low=0),
    "bias_variance": Number(low=0),
    "alpha": Number(low=1e-12, above=True),
    "skip": Number(low=0),
    "q0": Number(low=1e-24, above=True),
}


@checked
def amplification_map(
    function: PointwiseFunction | LayerNorm,
    depth: Depth,
    *,
    weight_variance: ArrayLike = 1.0,
    bias_variance: ArrayLike = 0.0,
    alpha: ArrayLike = 1.0,
    skip: ArrayLike = 1.0,
    q0: ArrayLike = 1.0,
    threads: Threads = 2,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``log J(0 -> depth)``, the last variance ``q`` and the last ``log chi`` of every network of a grid.

    Args:
        function: ``phi``, whose derivative must not vanish everywhere, or LayerNorm.
        depth: layers.
        weight_variance, bias_variance, alpha, skip, q0: arrays that broadcast, of the shape of the results.
        threads: how many share the work.

    Raises:
        ValueError: a depth below 1, negative variances, ``alpha`` or ``q0`` not positive, or variances that leave the
            range from exp(-60) to exp(60).
    """
    given = {"weight_variance": weight_variance, "bias_variance": bias_variance, "alpha": alpha, "skip": skip, "q0": q0}
    try:
        arrays = np.broadcast_arrays(*(numbers_within(_KINDS[name], name, array) for name, array in given.items()))
    except ValueError as error:
        if isinstance(error, CriticalityError):
            raise
        raise CriticalityError(f"{', '.join(given)} must broadcast: {error}") from None
    flat = [array.ravel() for array in arrays]
    table = (
        NormTable(function)
        if isinstance(function, LayerNorm)
        else MomentTable(function, *_range(function, depth, *flat))
    )
    pieces = [[array[i : i + _CHUNK] for array in flat] for i in range(0, flat[0].size, _CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda piece: _run(table, depth, *piece), pieces))
    log_j, q, log_chi = (np.concatenate(part).reshape(arrays[0].shape) for part in zip(*done, strict=True))
    return log_j, q, log_chi


def _range(function: PointwiseFunction, depth: int, *arrays: np.ndarray) -> tuple[float, float]:
    """Logarithms between which ``alpha^2 q`` stays: by the recursion of the smallest and of the largest network."""
    pointwise = Pointwise(function)
    ends = []
    for pick in (np.min, np.max):
        w, b, a, s, q = (float(pick(array)) for array in arrays)
        path = [a * a * q]
        for _ in range(depth):
            q = s * s * q + w * float(pointwise.equal(a * a * q, 1.0, False)[0]) + b
            if q < 1e-26 or a * a * q > 1e26:
                break
            path.append(a * a * q)
        ends += [min(path), max(path)]
    return max(math.log(min(ends)) - 1, _LOWEST), min(math.log(max(ends)) + 1, _HIGHEST)


def _run(
    table: MomentTable | NormTable,
    depth: int,
    weight: np.ndarray,
    bias: np.ndarray,
    alpha: np.ndarray,
    skip: np.ndarray,
    q0: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, total = q0.copy(), np.zeros_like(q0)
    keep, gain, shift = skip * skip, weight * alpha * alpha, 2 * np.log(alpha)
    product = np.ones_like(q)
    chi = product
    for layer in range(depth):
        value, slope = table.both(np.log(q) + shift)
        chi = keep + gain * slope
        product = product * chi
        if layer % 8 == 7:  # a logarithm now and then
            total += np.log(product)
            product = np.ones_like(q)
        q = np.maximum(keep * q + weight * value + bias, 1e-30)
    with np.errstate(divide="ignore"):
        return total + np.log(product), q, np.log(chi)


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

    def variances(log_q: float) -> tuple[float, float]:
        q = math.exp(log_q)
        weight = 1 / pointwise.equal(q, 1.0, True)[0]
        return weight, q - weight * pointwise.equal(q, 1.0, False)[0]

    deviations = np.atleast_1d(numbers_within(Number(low=0), "bias_deviations", bias_deviations))
    line = np.empty(len(deviations))
    for i, bias in enumerate(deviations):
        low, high = math.log(1e-12), math.log(1e12)

        def excess(log_q: float, wanted: float = bias * bias) -> float:
            return variances(log_q)[1] - wanted

        if bias == 0:
            line[i] = math.sqrt(variances(low)[0])
        elif excess(low) * excess(high) > 0:
            raise ValueError(
                f"bias_deviations must have a critical sigma_w for {function.name!r}, and {bias:g} has none"
            )
        else:
            line[i] = math.sqrt(variances(optimize.brentq(excess, low, high, xtol=1e-13, rtol=1e-13))[0])
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

    def next_variance(q: float) -> float:
        return weight_variance * float(pointwise.V(q)) + bias_variance

    q = 1.0
    for _ in range(400):
        before, q = q, next_variance(q)
        if not 1e-200 < q < 1e12:
            break
        if abs(q - before) < 1e-15 * q:
            break
    if q >= 1e12:
        raise ValueError(
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
    chi = weight_variance * float(pointwise.D(q))
    h = 1e-4
    slope = (next_variance(q * (1 + h)) - next_variance(q * (1 - h))) / (2 * h * q)
    rho, rho_slope = 1.0, chi
    if chi > 1:

        def next_correlation(r: float) -> float:
            return (weight_variance * float(pointwise.C(q, q, r)) + bias_variance) / q

        rho = float(optimize.brentq(lambda r: next_correlation(r) - r, -1 + 1e-9, 1 - 1e-9, xtol=1e-14))
        rho_slope = weight_variance * float(pointwise.Cd(q, q, rho))
    return FixedPoint(q, chi, rho, _length(slope), _length(rho_slope), _length(chi))


def _length(slope: float) -> float:
    return 1 / abs(math.log(abs(slope))) if slope not in (0.0, 1.0, -1.0) else (0.0 if slope == 0.0 else math.inf)


@checked
def transformer_map(
    network: Network,
    depth: Depth,
    *,
    alpha: Float[np.ndarray, " alphas"],
    gain: Float[np.ndarray, " gains"] | None = None,
    tokens: Size = 64,
    q0: Start = 1.0,
    rho0: Correlation = 0.0,
    nodes: Threads = 32,
    threads: Threads = 2,
) -> tuple[np.ndarray, float]:
    """``log J(0 -> l)`` of pre-norm networks of pointwise norms (DyT, Derf) over ``alpha`` and depth, or weight gain.

    The last block of ``network`` is repeated, for many ``alpha`` at once.  Over ``gain``, ``log J`` is computed at
    Chebyshev nodes and interpolated by the polynomial through them: it is a smooth function of both logarithms as long
    as scores are not so large that few tokens dominate the softmax (docs/theory, section 4).  The error says whether.

    Args:
        network: its norms' own ``alpha`` is replaced.
        depth: blocks.
        alpha: of all norms, increasing.
        gain: factor on all weights, increasing; without it the map is over depths ``1 .. depth``.
        tokens, q0, rho0: equivalent tokens, their variance and correlation at the input.
        nodes: to each side of a map over ``gain``.
        threads: how many share the work.

    Returns:
        ``log J`` of shape ``(depth, alphas)``, or ``(gains, alphas)`` at the full depth, and the error of the
        interpolation (0 without one): the largest deviation half-way between nodes, relative to ``1 + log J``.

    Raises:
        ValueError: norms that are not pointwise, or values that are not positive and increasing.
    """
    last = network.last_block
    alphas = {part.norm.pointwise.alpha for part in last if isinstance(part.norm, PointwiseNorm)}
    if len(alphas) != 1 or not all(isinstance(part.norm, PointwiseNorm) and part.placement == "pre" for part in last):
        raise ValueError(f"network {network.name!r} must be pre-norm with pointwise norms of one alpha")
    own = alphas.pop()

    def profile(scales: np.ndarray, weight_gain: float, every: bool) -> np.ndarray:
        """``(depth or 1, scales)``."""
        step = BlockStep(scale_weights(network, weight_gain), tokens, rho0, branch_scale=scales / own)
        state = np.tile(step.start(q0)[:, None], len(scales))
        state[0] += 2 * np.log(scales / own)
        kept = np.empty((depth if every else 1, len(scales)))
        for layer in range(depth):
            state = state + step.change(state)
            if every or layer == depth - 1:
                kept[layer if every else 0] = state[-1]
        return kept

    along = _Chebyshev("alpha", alpha, nodes)
    if gain is None:
        return profile(np.asarray(alpha, dtype=float), 1.0, True), 0.0
    across = _Chebyshev("gain", gain, nodes)
    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(lambda g: profile(along.points, float(g), False)[0], across.points))
    exact = np.array(rows)
    check, gains = along.between(), across.between()[:: max(1, nodes // 6)]
    direct = np.concatenate([profile(check, float(g), False) for g in gains])
    error = _relative(across.at(along.at(exact, check).T, gains).T, direct)
    return across.at(along.at(exact, alpha).T, gain).T, error


def collapse_map(
    function: PointwiseFunction,
    sigma_w: ArrayLike,
    *,
    attention_weight: ArrayLike,
    mlp_weight: ArrayLike,
) -> tuple[np.ndarray, np.ndarray]:
    """``lambda_a`` and ``lambda_g`` at the fixed point of blocks that weigh skip and branch, tokens nearly alike (docs/theory, 13).

    ``x <- sqrt(1-a^2) x + a attn(LN x)``, ``x <- sqrt(1-b^2) x + b W_2 phi(W_1 LN x)``, unit variance of values and ``W_2``.

    Args:
        function: ``phi``.
        sigma_w: deviation of ``W_1``, above 0.
        attention_weight, mlp_weight: ``a`` and ``b``, between 0 and 1; arrays broadcast.

    Raises:
        ValueError: what is out of these ranges.
    """
    sigma, a, b = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (sigma_w, attention_weight, mlp_weight)))
    for name, weights in (("attention_weight", a), ("mlp_weight", b)):
        if not np.all((weights > 0) & (weights < 1)):
            raise ValueError(
                f"{name} must lie between 0 and 1, and holds {weights[~((weights > 0) & (weights < 1))].flat[0]:g}"
            )
    if not np.all((sigma > 0) & np.isfinite(sigma)):
        raise ValueError("sigma_w must be finite and above 0")
    widths, index = np.unique(sigma, return_inverse=True)
    pointwise = Pointwise(function)
    value, slope = (moment(widths**2)[index].reshape(sigma.shape) for moment in (pointwise.V, pointwise.D))
    q = ((1 - b**2) * a**2 + b**2 * value) / (1 - (1 - b**2) * (1 - a**2))
    middle = (1 - a**2) * q + a**2
    mlp = np.log1p(b**2 * (sigma**2 * slope / middle - 1))
    return np.log1p(-(a**2)) + mlp, np.log1p(a**2 * (1 / q - 1)) + mlp


def _relative(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(found - exact) / (1 + np.abs(exact))))


class _Chebyshev:
    """Polynomial interpolation in the logarithm of a parameter, along the last axis."""

    def __init__(self, name: str, values: Float[np.ndarray, " values"], nodes: int):
        values = numbers_within(Number(low=0, above=True), name, values)
        if values.ndim != 1 or len(values) < 2 or not np.all(values > 0) or not np.all(np.diff(values) > 0):
            raise ValueError(f"{name} must be two or more positive, increasing numbers")
        self.low, self.high = math.log(values[0]), math.log(values[-1])
        self.unit = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
        self._inverse = np.linalg.inv(np.polynomial.chebyshev.chebvander(self.unit, nodes - 1))
        self.points = self._from_unit(self.unit)

    def _from_unit(self, unit: np.ndarray) -> np.ndarray:
        logarithms: np.ndarray = (self.low + self.high) / 2 + (self.high - self.low) / 2 * unit
        return np.exp(logarithms)

    def between(self) -> np.ndarray:
        """Half-way between the nodes."""
        return self._from_unit(np.cos(np.pi * np.arange(1, len(self.unit)) / len(self.unit)))

    def at(self, values: Float[np.ndarray, "... nodes"], places: Float[np.ndarray, " places"]) -> np.ndarray:
        unit = (2 * np.log(places) - self.low - self.high) / (self.high - self.low)
        table = np.polynomial.chebyshev.chebvander(unit, len(self.unit) - 1) @ self._inverse
        result: np.ndarray = values @ table.T
        return result
