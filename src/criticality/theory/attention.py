"""Averages over the random attention matrix: sampled for token kernels, closed at large T for symmetric tokens.

A head of dimension ``d`` has queries and keys with independent Gaussian channels, kernels ``Q`` and ``K`` over
tokens; its scores are ``S = q k^T / sqrt(d)`` and, as ``d`` grows, Gaussian with ``Cov(S_ab, S_cd) = Q_ac K_bd``.
Sampling draws heads: of their own dimension where it is known, which is exact at any ``d`` and takes rotations and
QK-norm as they are, or Gaussian scores.  The gradient that reaches the attention matrix is ``g = L_G Z L_V^T``,
independent of the scores; it is averaged exactly where queries and keys enter as they are, and sampled where rotations or
QK-norm come between (docs/theory, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from criticality.arguments import Finite, NotNegative, Samples, Seed, Size, check_fields, checked
from criticality.errors import ArgumentError
from criticality.shapes import Bool, Float, Float32
from criticality.theory.kernels import Numbers

Matrix = Float[np.ndarray, "... tokens tokens"]
"""Of several inputs along axes in front, which see the same heads."""

Channels = Float[np.ndarray, "... tokens head_dim"]
OfHeads = Float[np.ndarray, "... pairs signs tokens tokens"]

_CHUNK = 1 << 16
"""Entries of attention matrices that are computed at once: they stay in the cache."""


@dataclass(frozen=True)
class ScoreSampling:
    """How attention averages are sampled: ``samples`` heads per layer, in antithetic pairs, from ``seed``.

    Forward and backward of one layer draw the same heads. With ``repeats``, further seeds, kernels have two axes in front of
    their tokens, seeds and inputs: each seed draws heads of its own.
    """

    samples: Samples = 8
    seed: Seed = 0
    layer: int = 0
    repeats: tuple[Seed, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)

    def at(self, layer: int) -> ScoreSampling:
        """The stream of random numbers of one layer."""
        return replace(self, layer=layer)

    def normals(self, purpose: int) -> Callable[[tuple[int, ...]], np.ndarray]:
        """Draws the next normal numbers of a shape; with ``repeats``, those of each seed along an axis in front, before one of
        length 1 for the inputs."""
        seeds = (self.seed, *self.repeats)
        generators = [np.random.default_rng([seed, self.layer, purpose]) for seed in seeds]
        if not self.repeats:
            return generators[0].standard_normal
        return lambda shape: np.stack([one.standard_normal(shape) for one in generators])[:, None]


@dataclass(frozen=True)
class Rotary:
    """Rotary position embedding: channel pair ``i`` of the token at position ``t`` turns by ``t frequencies[i]``.

    Pairs beyond ``frequencies`` do not turn.  Which channels make a pair does not matter, as channels are alike.  For
    positions in two dimensions, or tokens that do not turn, give ``positions``: one row of angles in place of
    ``t frequencies`` for each token.
    """

    frequencies: tuple[Finite, ...] = ()
    positions: Float[np.ndarray, "tokens pairs"] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if bool(self.frequencies) == (self.positions is not None):
            raise ArgumentError("Rotary must have either frequencies or positions")

    @classmethod
    @checked
    def standard(cls, head_dim: Size, base: Finite = 10000.0, fraction: Finite = 1.0) -> Rotary:
        """``frequencies = base^(-2i / r)`` over the first ``r = fraction head_dim`` channels (arXiv:2104.09864)."""
        turned = int(fraction * head_dim) // 2 * 2
        if not (turned >= 2 and base > 0):
            raise ArgumentError(
                f"base={base!r}, fraction={fraction!r} of Rotary must be above 0 and turn a pair of head_dim={head_dim!r}"
            )
        return cls(tuple(float(base ** (-i / turned)) for i in range(0, turned, 2)))

    @property
    def pairs(self) -> int:
        """Number of channel pairs that turn."""
        return len(self.frequencies) if self.positions is None else self.positions.shape[1]

    def angles(self, tokens: int) -> Float[np.ndarray, "tokens pairs"]:
        """Angle of every channel pair of every token.

        Raises:
            ValueError: positions of another number of tokens.
        """
        if self.positions is None:
            return np.outer(np.arange(tokens), self.frequencies)
        if len(self.positions) != tokens:
            raise ArgumentError(f"positions of Rotary must be of {tokens} tokens, but are of {len(self.positions)}")
        return self.positions


def rotate(x: Channels, cosine: Float[np.ndarray, "tokens pairs"], sine: Float[np.ndarray, "tokens pairs"]) -> Channels:
    """Turn the first channel pairs of each token; with the sine negated, back."""
    pairs, turned = cosine.shape[1], x.copy()
    left, right = turned[..., :pairs], turned[..., pairs : 2 * pairs]
    left *= cosine
    left -= x[..., pairs : 2 * pairs] * sine
    right *= cosine
    right += x[..., :pairs] * sine
    return turned


@dataclass(frozen=True)
class HeadNorm:
    """QK-norm: each head's query or key is normalized over its own channels, before any rotation.

    ``centred``: LayerNorm, otherwise RMSNorm.
    """

    epsilon: NotNegative = 1e-6
    gamma: Finite = 1.0
    centred: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    def apply(self, x: Channels) -> tuple[Channels, Float[np.ndarray, "... tokens one"]]:
        """The normalized channels before ``gamma``, and the root mean squares."""
        if self.centred:
            x = x - x.mean(axis=-1, keepdims=True)
        size = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return x / size, size

    def backward(self, gradient: Channels, unit: Channels, size: Float[np.ndarray, "... tokens one"]) -> Channels:
        """The gradient at the input, from the gradient at the output and what ``apply`` returned."""
        gradient = gradient - unit * np.mean(gradient * unit, axis=-1, keepdims=True)
        if self.centred:
            gradient = gradient - gradient.mean(axis=-1, keepdims=True)
        return self.gamma * gradient / size


@dataclass(frozen=True)
class Drawn:
    """Queries or keys of a chunk of heads, as they enter the scores.

    Attributes:
        channels: ``(..., pairs, tokens, channels)``, divided by ``sqrt(head_dim)`` where that is known; their products are kernels.
        unit, size: what ``HeadNorm.apply`` returned, with an axis for both signs of the scores; ``None`` without QK-norm.
    """

    channels: Channels
    unit: np.ndarray | None = None
    size: np.ndarray | None = None


@dataclass(frozen=True)
class DrawnHeads:
    """Attention matrices of a chunk of heads, the scores of each pair of opposite sign, with the queries and keys of each pair."""

    attention: OfHeads
    query: Drawn
    key: Drawn


class Side:
    """Queries or keys of sampled heads: from independent channels to what enters the scores, and back."""

    def __init__(self, kernel: Matrix, norm: HeadNorm | None, rotary: Rotary | None):
        self.factor, self.norm = factor(kernel), norm
        angles = None if rotary is None else rotary.angles(kernel.shape[-1])
        self.turn = None if angles is None else (np.cos(angles), np.sin(angles))

    def draw(self, normals: Channels) -> Drawn:
        """From independent channels, ``(..., pairs, tokens, head_dim)``."""
        x, unit, size = _each(self.factor) @ normals, None, None
        if self.norm is not None:
            unit, size = self.norm.apply(x)
            x, unit, size = self.norm.gamma * unit, _each(unit), _each(size)
        turned = x if self.turn is None else rotate(x, *self.turn)
        return Drawn(turned / math.sqrt(normals.shape[-1]), unit, size)

    def backward(self, gradient: Channels, drawn: Drawn) -> Channels:
        """Gradient at the independent channels of a draw, for both signs of the scores."""
        if self.turn is not None:
            cosine, sine = self.turn
            gradient = rotate(gradient, cosine, -sine)
        if self.norm is None or drawn.unit is None or drawn.size is None:
            return gradient
        return self.norm.backward(gradient, drawn.unit, drawn.size)


class Heads:
    """Sampled heads over ``tokens``: attention matrices forward, gradients of queries and keys back.

    ``head_dim = None`` stands for Gaussian scores, the limit of many channels, without rotation and QK-norm.
    """

    def __init__(
        self,
        queries: Side,
        keys: Side,
        head_dim: int | None,
        allowed: Bool[np.ndarray, "tokens tokens"] | None,
        scale: float,
        sampling: ScoreSampling,
    ):
        self.queries, self.keys, self.head_dim = queries, keys, head_dim
        self.allowed, self.scale, self.sampling = allowed, scale, sampling
        self.tokens = queries.factor.shape[-1]

    def chunks(self) -> Iterator[int]:
        """Numbers of antithetic pairs that are computed at once."""
        step, left = max(1, _CHUNK // self.queries.factor.size), self.sampling.samples // 2
        while left > 0:
            yield min(step, left)
            left -= step

    def drawn(self, precision: type[np.floating] = np.float64) -> Iterator[DrawnHeads]:
        """All sampled heads in chunks."""
        normals = self.sampling.normals(0)
        for pairs in self.chunks():
            if self.head_dim is None:
                query, key = Drawn(_each(self.queries.factor)), Drawn(_each(self.keys.factor))
                between = normals((pairs, self.tokens, self.tokens))
                scores, weight = query.channels @ between @ key.channels.mT, self.scale
            else:
                both = normals((pairs, 2, self.tokens, self.head_dim))
                query, key = self.queries.draw(both[..., 0, :, :]), self.keys.draw(both[..., 1, :, :])
                scores, weight = query.channels @ key.channels.mT, math.sqrt(self.head_dim) * self.scale
            scores *= weight
            yield DrawnHeads(softmax(np.stack([scores, -scores], axis=-3), self.allowed, precision), query, key)

    @property
    def plain(self) -> bool:
        """Whether queries and keys enter the scores as they are, without rotation and QK-norm."""
        return all(side.norm is None and side.turn is None for side in (self.queries, self.keys))


def factor(matrix: Matrix) -> Matrix:
    """``L`` with ``L L^T = matrix``: Cholesky, or the eigenvectors where rounding left an eigenvalue below zero."""
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        if matrix.ndim > 2:
            return np.stack([factor(one) for one in matrix])
        values, vectors = np.linalg.eigh(matrix)
        return vectors * np.sqrt(np.maximum(values, 0.0))


def softmax(
    scores: Float[np.ndarray, "... tokens tokens"],
    allowed: Bool[np.ndarray, "tokens tokens"] | None = None,
    precision: type[np.floating] = np.float64,
) -> Float[np.ndarray, "... tokens tokens"]:
    """Row-wise softmax over the ``allowed`` entries."""
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    weights = (scores - scores.max(axis=-1, keepdims=True)).astype(precision, copy=False)
    np.exp(weights, out=weights)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def sampled_forward(heads: Heads, values: Matrix) -> Matrix:
    """``E A V A^T``."""
    value_factor = factor(values)
    total = np.zeros_like(values)
    for chunk in heads.drawn():
        mixed = np.moveaxis(chunk.attention @ _each(_each(value_factor)), -2, -4).reshape(*values.shape[:-1], -1)
        total += mixed @ mixed.mT
    return total / heads.sampling.samples


def sampled_backward(heads: Heads, values: Matrix, gradient: Matrix, weights: tuple[float, float, float]) -> Matrix:
    """The sum, with ``weights``, of the backward kernels that reach the values, the queries and the keys.

    ``E A^T G A``, and ``E R K R^T`` and ``E R^T Q R`` with ``R = A * (g - sum_c A_ac g_ac)``, the gradient at the
    scores, for Gaussian scores; the same through the channels of each head where these are sampled.

    The products for each head are in single precision, on matrices of unit size: their rounding, 1e-6, is nothing beside
    the spread between heads.  ``R`` does not see what all tokens have in common, which is taken off the values and keys
    beforehand: tokens that are nearly alike lose no digits.
    """
    paths = _exact_paths if heads.plain else _drawn_paths
    return paths(heads, values, gradient, weights) / heads.sampling.samples


def unit(array: np.ndarray, axes: int = 2) -> tuple[Float32[np.ndarray, "..."], Float[np.ndarray, "... one one"]]:
    """The array with the largest entry 1 over the last axes, in single precision, and that entry."""
    size = np.abs(array).max(axis=tuple(range(-axes, 0)), keepdims=True)
    size[size == 0.0] = 1.0
    return (array / size).astype(np.float32), size.reshape(*size.shape[:-axes], 1, 1)


def _exact_paths(heads: Heads, values: Matrix, gradient: Matrix, weights: tuple[float, float, float]) -> Matrix:
    """Sums over heads, the gradient ``g`` that reaches the attention matrix averaged exactly.

    Row ``a`` of ``R`` is ``P_a g_a`` with ``P_a = diag(A_a) - A_a A_a^T``, and ``Cov(g_ab, g_cd) = G_ac V_bd``, so that
    ``E (R K R^T)_ac = G_ac tr(P_a V P_c K)`` and ``E (R^T Q R) = sum_ac Q_ac G_ac P_a V P_c``; written out, both are
    products of matrices over tokens (docs/theory, section 4).  The second and ``A^T G A`` are ``Y + Y^T`` of one ``Y``.
    """
    by_query, by_key = np.zeros((2, *values.shape))
    values, value_size = unit(_centred(_centred(values).mT))
    gradient, gradient_size = unit(gradient)
    of_values = _each(_each(values))
    for chunk in heads.drawn(np.float32):
        a = chunk.attention
        query, query_size = unit(chunk.query.channels, 3)
        key, key_size = unit(_centred(chunk.key.channels), 3)
        strength = heads.scale**2 * value_size * np.array([key_size**2 * weights[1], query_size**2 * weights[2]])
        largest = np.maximum(weights[0], strength[1])
        largest[largest == 0.0] = 1.0
        through_values = _each(_each((weights[0] / largest).astype(np.float32) * gradient))
        at_keys = _each((query @ query.mT) * _each((strength[1] / largest).astype(np.float32) * gradient))
        keys, key = _each((key @ key.mT) * _each(values)), _each(key)
        av, ak, aw = a @ of_values, a @ key, at_keys @ a
        mixed = av @ a.mT
        half = (a @ keys / 2 - av * (ak @ key.mT)) @ a.mT
        by_query += strength[0] * _sum(half + half.mT + mixed * (ak @ ak.mT))
        half = a.mT @ ((at_keys * mixed + through_values) @ a / 2 - av * aw)
        by_key += largest * _sum(half + half.mT + of_values * (a.mT @ aw))
    return gradient_size * (by_query * gradient + by_key)


def _drawn_paths(heads: Heads, values: Matrix, gradient: Matrix, weights: tuple[float, float, float]) -> Matrix:
    """Sums over heads, ``g`` drawn once for each pair: rotations and QK-norm come between scores and channels."""
    total = np.zeros(values.shape)
    normals = heads.sampling.normals(1)
    gradient_factor, left_size = unit(factor(gradient))
    value_factor, right_size = unit(_centred(factor(values)))
    gradient, gradient_size = unit(gradient)
    for chunk in heads.drawn(np.float32):
        a = chunk.attention
        drawn = normals((a.shape[-4], heads.tokens, heads.tokens)).astype(np.float32)
        at_attention = _each(_each(gradient_factor) @ drawn @ _each(value_factor.mT))
        at_scores = a * (at_attention - np.sum(a * at_attention, axis=-1, keepdims=True))
        total += weights[0] * gradient_size * _sum(a.mT @ _each(_each(gradient)) @ a)
        for side, own, at_side, other, weight in (
            (heads.queries, chunk.query, at_scores, _centred(chunk.key.channels), weights[1]),
            (heads.keys, chunk.key, at_scores.mT, chunk.query.channels, weights[2]),
        ):
            channels, size = unit(other, 3)
            at_channels = side.backward(at_side @ _each(channels), own)
            strength = weight * (left_size * right_size * heads.scale * size) ** 2
            total += strength * _sum(at_channels @ at_channels.mT)
    return total


def _each(array: np.ndarray) -> np.ndarray:
    """With an axis in front of the last two: the same for each pair, or for both signs."""
    return array[..., None, :, :]


def _centred(array: Float[np.ndarray, "... tokens n"]) -> Float[np.ndarray, "... tokens n"]:
    """What tokens do not have in common."""
    return array - array.mean(axis=-2, keepdims=True)


def _sum(heads: OfHeads) -> Matrix:
    return heads.sum(axis=(-4, -3), dtype=float)


def symmetric_overlap(exponent: Numbers, tokens: int) -> Numbers:
    """``T E sum_b A_ab A_cb -> e^c`` at large T: ``c = q_Q (q_K - p_K)`` for ``a = c``, ``p_Q (q_K - p_K)`` else.

    Valid for ``c`` well below ``2 ln T``: beyond, few tokens dominate the softmax.  The overlap is cut at ``T``,
    which it cannot exceed.
    """
    if isinstance(exponent, np.ndarray):
        return np.exp(np.minimum(exponent, np.log(tokens)))
    return math.exp(min(exponent, math.log(tokens)))
