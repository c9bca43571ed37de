"""Fixed points and critical lines of plain networks (Poole et al. 2016, Schoenholz et al. 2017), and maps of transformers."""

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
from criticality.lazy import lazy_module
from criticality.phases.chebyshev import Chebyshev
from criticality.phases.depth import BlockStep
from criticality.pointwise import Pointwise, PointwiseFunction
from criticality.theory.network import Network, scale_weights
from criticality.theory.norms import PointwiseNorm

optimize = lazy_module("scipy.optimize")


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

    places, gains = _logarithms("alpha", alpha), None if gain is None else _logarithms("gain", gain)
    if gains is None:
        return profile(np.exp(places), 1.0, True), 0.0
    along, across = (Chebyshev(values[0], values[-1], nodes) for values in (places, gains))
    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(lambda g: profile(np.exp(along.points), float(g), False)[0], np.exp(across.points)))

    def between(some: np.ndarray, others: np.ndarray) -> np.ndarray:
        found: np.ndarray = across.matrix(others) @ np.array(rows) @ along.matrix(some).T
        return found

    check, few = along.between(), across.between()[:: max(1, nodes // 6)]
    direct = np.concatenate([profile(np.exp(check), float(g), False) for g in np.exp(few)])
    return between(places, gains), _relative(between(check, few), direct)


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


def _logarithms(name: str, values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    values = numbers_within(Number(low=0, above=True), name, values)
    if values.ndim != 1 or len(values) < 2 or not np.all(values > 0) or not np.all(np.diff(values) > 0):
        raise ValueError(f"{name} must be two or more positive, increasing numbers")
    logarithms: np.ndarray = np.log(values)
    return logarithms
