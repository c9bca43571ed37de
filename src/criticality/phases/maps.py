"""Phase diagrams of transformers, and of correlations, as maps of many networks at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
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
from criticality.phases.chebyshev import Chebyshev
from criticality.phases.depth import BlockStep
from criticality.pointwise import Pointwise, PointwiseFunction
from criticality.shapes import Float
from criticality.theory.edits import pointwise_norms
from criticality.theory.network import Network, scale_weights
from criticality.theory.norms import PointwiseNorm


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
        ``log J`` of shape ``(depth, alphas)``, or ``(gains, alphas)`` at the full depth, and the error of the interpolation (0
        without one): the largest deviation half-way between nodes, relative to ``1 + log J``.

    Raises:
        ValueError: norms that are not pointwise, or values that are not positive and increasing.
    """
    own = _one_alpha(network)

    def profile(alphas: np.ndarray, weight_gain: float) -> np.ndarray:
        """``log J`` at every depth, ``(depth, alphas)``."""
        scales = alphas / own
        step = BlockStep(scale_weights(network, weight_gain), tokens, rho0, branch_scale=scales)
        state = np.tile(step.start(q0)[:, None], len(scales))
        state[0] += 2 * np.log(scales)
        kept = np.empty((depth, len(scales)))
        for layer in range(depth):
            state = state + step.change(state)
            kept[layer] = state[-1]
        return kept

    places = _logarithms("alpha", alpha)
    if gain is None:
        return profile(np.exp(places), 1.0), 0.0
    gains = _logarithms("gain", gain)
    along, across = (Chebyshev(values[0], values[-1], nodes) for values in (places, gains))
    with ThreadPoolExecutor(threads) as pool:
        rows = list(pool.map(lambda one: profile(np.exp(along.points), float(one))[-1], np.exp(across.points)))
    check, few = along.between(), across.between()[:: max(1, nodes // 6)]
    direct = np.array([profile(np.exp(check), float(one))[-1] for one in np.exp(few)])
    between = partial(_between, along, across, np.array(rows))
    return between(places, gains), _relative(between(check, few), direct)


def _between(
    along: Chebyshev, across: Chebyshev, rows: np.ndarray, places: np.ndarray, gains: np.ndarray
) -> np.ndarray:
    """What is interpolated from the ``rows`` at the nodes, ``(gains, places)``."""
    found: np.ndarray = across.matrix(gains) @ rows @ along.matrix(places).T
    return found


def _one_alpha(network: Network) -> float:
    """That of the norms of the last block."""
    last = network.last_block
    norms = [norm for part in last for norm in part.entry_norms]
    alphas = {norm.pointwise.alpha for norm in pointwise_norms(last)}
    seen = all(isinstance(norm, PointwiseNorm) for norm in norms) and len(norms) == len(pointwise_norms(last))
    if len(alphas) != 1 or not seen or any(part.placement != "pre" for part in last):
        raise ArgumentError(f"network {network.name!r} must be pre-norm with pointwise norms of one alpha")
    return alphas.pop()


@checked
def exponents_map(
    network: Network,
    depth: Depth,
    *,
    alpha: Float[np.ndarray, " alphas"],
    tokens: Size = 64,
    q0: Start = 1.0,
    rho0: Correlation = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """``lambda_a`` and ``lambda_g`` (docs/theory, 13) of the networks of ``transformer_map``, whose arguments these are.

    Returns:
        Growth per block of ``log(1 - rho)`` of tokens that are nearly alike, and of their common gradients, ``(depth, alphas)``:
        of each block at the variance that the network has before it.

    Raises:
        ValueError: as ``transformer_map``.
    """
    scales = np.exp(_logarithms("alpha", alpha)) / _one_alpha(network)
    step = BlockStep(network, tokens, rho0, branch_scale=scales)
    state = np.tile(step.start(q0)[:, None], len(scales))
    state[0] += 2 * np.log(scales)
    found = np.empty((2, depth, len(scales)))
    for layer in range(depth):
        alone, both = (
            step.change(np.stack([state[0], np.ones_like(scales), np.full_like(scales, b), np.zeros_like(scales)]))
            for b in (0.0, 1.0)
        )
        # rows of M: (1, 0) M = e^alone (1, alone's b/a), (1, 1) M = e^both (...); u - v is multiplied by M_uu - M_vu
        difference = 2 * np.exp(alone[3]) - np.exp(both[3])
        found[:, layer] = np.log(difference) - alone[0], alone[3] + np.log1p(alone[2])
        state = state + step.change(state)
    return found[0], found[1]


@checked
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


def _logarithms(name: str, values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    values = numbers_within(Number(low=0, above=True), name, values)
    if values.ndim != 1 or len(values) < 2 or not np.all(values > 0) or not np.all(np.diff(values) > 0):
        raise ArgumentError(f"{name} must be two or more positive, increasing numbers")
    logarithms: np.ndarray = np.log(values)
    return logarithms
