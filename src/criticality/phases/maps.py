"""Phase diagrams: many networks of one function at once.

One layer of a network without norm is ``x <- skip x + W phi(alpha x) + b`` (``theory.Layer``); ``skip = 0`` is a plain MLP seen
at its preactivations (Poole et al. 2016, Schoenholz et al. 2017), ``skip = 1`` a residual network.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from criticality.arguments import (
    Correlation,
    Depth,
    Number,
    Size,
    Start,
    Threads,
    checked,
    numbers_within,
)
from criticality.errors import ArgumentError
from criticality.lazy import lazy_module
from criticality.phases.depth import BlockStep
from criticality.phases.interpolation import HIGHEST, LOWEST, Chebyshev, MomentTable
from criticality.pointwise import Pointwise, PointwiseFunction
from criticality.theory.kernels import Numbers
from criticality.theory.layer import Layer
from criticality.theory.network import Network, scale_weights
from criticality.theory.norms import LayerNorm, Norm, PointwiseNorm

optimize = lazy_module("scipy.optimize")

_CHUNK = 1 << 14


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
    numbers = [numbers_within(_KINDS[name], name, array) for name, array in given.items()]
    try:
        arrays = np.broadcast_arrays(*numbers)
    except ValueError as error:
        raise ArgumentError(f"{', '.join(given)} must broadcast: {error}") from None
    flat = [array.ravel() for array in arrays]
    moments = function if isinstance(function, LayerNorm) else MomentTable(function, *_range(function, depth, *flat))
    pieces = [[array[i : i + _CHUNK] for array in flat] for i in range(0, flat[0].size, _CHUNK)]
    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(lambda piece: _run(moments, depth, *piece), pieces))
    log_j, q, log_chi = (np.concatenate(part).reshape(arrays[0].shape) for part in zip(*done, strict=True))
    return log_j, q, log_chi


def _range(function: PointwiseFunction, depth: int, *arrays: np.ndarray) -> tuple[float, float]:
    """Logarithms between which ``alpha^2 q`` stays: by the recursion of the smallest and of the largest network."""
    ends = []
    for pick in (np.min, np.max):
        *layer, q0 = (float(pick(array)) for array in arrays)
        alpha = layer[2]
        variances = (q for q, _ in _layer(PointwiseNorm(Pointwise(function)), *layer).states(q0))
        path = [alpha**2 * q0]
        for q in islice(variances, 1, depth + 1):
            if q < 1e-26 or alpha**2 * q > 1e26:
                break
            path.append(alpha**2 * q)
        ends += [min(path), max(path)]
    return max(math.log(min(ends)) - 1, LOWEST), min(math.log(max(ends)) + 1, HIGHEST)


def _layer(function: Norm | MomentTable, weight: Numbers, bias: Numbers, alpha: Numbers, skip: Numbers) -> Layer:
    return Layer(function, weight, bias, skip, alpha)


def _run(
    function: MomentTable | LayerNorm, depth: int, *arrays: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    *layer, q = arrays
    one = _layer(function, *layer)
    total, product = np.zeros_like(q), np.ones_like(q)
    for number in range(depth):
        q, chi = one.step(q)
        product = product * chi
        if number % 8 == 7:  # a logarithm now and then
            total += np.log(product)
            product = np.ones_like(q)
        q = np.maximum(q, 1e-30)
    with np.errstate(divide="ignore"):
        return total + np.log(product), q, np.log(chi)


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
        raise ArgumentError(f"network {network.name!r} must be pre-norm with pointwise norms of one alpha")
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

    along = Chebyshev("alpha", alpha, nodes)
    if gain is None:
        return profile(np.asarray(alpha, dtype=float), 1.0, True), 0.0
    across = Chebyshev("gain", gain, nodes)
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
            raise ArgumentError(
                f"{name} must lie between 0 and 1, and holds {weights[~((weights > 0) & (weights < 1))].flat[0]:g}"
            )
    if not np.all((sigma > 0) & np.isfinite(sigma)):
        raise ArgumentError("sigma_w must be finite and above 0")
    widths, index = np.unique(sigma, return_inverse=True)
    pointwise = Pointwise(function)
    value, slope = (moment(widths**2)[index].reshape(sigma.shape) for moment in (pointwise.V, pointwise.D))
    q = ((1 - b**2) * a**2 + b**2 * value) / (1 - (1 - b**2) * (1 - a**2))
    middle = (1 - a**2) * q + a**2
    mlp = np.log1p(b**2 * (sigma**2 * slope / middle - 1))
    return np.log1p(-(a**2)) + mlp, np.log1p(a**2 * (1 / q - 1)) + mlp


def _relative(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(found - exact) / (1 + np.abs(exact))))
