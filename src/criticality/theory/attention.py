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
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from criticality.arguments import Finite, NotNegative, Samples, Seed, Size, check_fields, checked
from criticality.theory.kernels import Numbers

Matrix = Float[np.ndarray, "tokens tokens"]
Channels = Float[np.ndarray, "tokens head_dim"]


@dataclass(frozen=True)
class ScoreSampling:
    """How attention averages are sampled: ``samples`` heads per layer, in antithetic pairs, from ``seed``.

    Forward and backward of one layer draw the same heads.
    """

    samples: Samples = 8
    seed: Seed = 0
    layer: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def at(self, layer: int) -> ScoreSampling:
        """The stream of random numbers of one layer."""
        return ScoreSampling(self.samples, self.seed, layer)

    def generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.layer, purpose])


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
            raise ValueError("Rotary must have either frequencies or positions")

    @classmethod
    @checked
    def standard(cls, head_dim: Size, base: Finite = 10000.0, fraction: Finite = 1.0) -> Rotary:
        """``frequencies = base^(-2i / r)`` over the first ``r = fraction head_dim`` channels (arXiv:2104.09864)."""
        turned = int(fraction * head_dim) // 2 * 2
        if not (turned >= 2 and base > 0):
            raise ValueError(
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
            raise ValueError(f"positions of Rotary must be of {tokens} tokens, but are of {len(self.positions)}")
        return self.positions


def rotate(x: Channels, cosine: Float[np.ndarray, "tokens pairs"], sine: Float[np.ndarray, "tokens pairs"]) -> Channels:
    """Turn the first channel pairs of each token; with the sine negated, back."""
    pairs = cosine.shape[1]
    left, right = x[:, :pairs], x[:, pairs : 2 * pairs]
    return np.concatenate([left * cosine - right * sine, right * cosine + left * sine, x[:, 2 * pairs :]], axis=1)


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

    def apply(self, x: Channels) -> tuple[Channels, Float[np.ndarray, "tokens one"]]:
        """The normalized channels before ``gamma``, and the root mean squares."""
        if self.centred:
            x = x - x.mean(axis=1, keepdims=True)
        size = np.sqrt(np.mean(x * x, axis=1, keepdims=True) + self.epsilon)
        return x / size, size

    def backward(self, gradient: Channels, unit: Channels, size: Float[np.ndarray, "tokens one"]) -> Channels:
        """The gradient at the input, from the gradient at the output and what ``apply`` returned."""
        gradient = gradient - unit * np.mean(gradient * unit, axis=1, keepdims=True)
        if self.centred:
            gradient = gradient - gradient.mean(axis=1, keepdims=True)
        return self.gamma * gradient / size


class Side:
    """Queries or keys of sampled heads: from independent channels to what enters the scores, and back."""

    def __init__(self, kernel: Matrix, norm: HeadNorm | None, rotary: Rotary | None):
        self.factor, self.norm = factor(kernel), norm
        angles = None if rotary is None else rotary.angles(len(kernel))
        self.turn = None if angles is None else (np.cos(angles), np.sin(angles))

    def draw(self, normals: Channels) -> Channels:
        x = self.factor @ normals
        if self.norm is not None:
            self._unit, self._size = self.norm.apply(x)
            x = self.norm.gamma * self._unit
        return x if self.turn is None else rotate(x, *self.turn)

    def backward(self, gradient: Channels) -> Channels:
        """Gradient at the channels of the last draw."""
        if self.turn is not None:
            cosine, sine = self.turn
            gradient = rotate(gradient, cosine, -sine)
        return gradient if self.norm is None else self.norm.backward(gradient, self._unit, self._size)


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
        self.tokens = len(queries.factor)

    def attention(self) -> Iterator[Matrix]:
        """The attention matrix of every sampled head, in antithetic pairs; ``kernels`` and ``by_scores`` are of the last."""
        generator = self.sampling.generator(0)
        for _ in range(self.sampling.samples // 2):
            if self.head_dim is None:
                scores = (
                    self.queries.factor @ generator.standard_normal((self.tokens, self.tokens)) @ self.keys.factor.T
                )
            else:
                self._query = self.queries.draw(generator.standard_normal((self.tokens, self.head_dim)))
                self._key = self.keys.draw(generator.standard_normal((self.tokens, self.head_dim)))
                scores = self._query @ self._key.T / math.sqrt(self.head_dim)
            for sign in (1.0, -1.0):
                yield softmax(sign * self.scale * scores, self.allowed)

    @property
    def plain(self) -> bool:
        """Whether queries and keys enter the scores as they are, without rotation and QK-norm."""
        return all(side.norm is None and side.turn is None for side in (self.queries, self.keys))

    def kernels(self) -> tuple[Matrix, Matrix]:
        """Kernels of the queries and of the keys of the last head, of its own channels where these are sampled."""
        if self.head_dim is None:
            return self.queries.factor @ self.queries.factor.T, self.keys.factor @ self.keys.factor.T
        return self._query @ self._query.T / self.head_dim, self._key @ self._key.T / self.head_dim

    def by_scores(self, at_scores: Matrix) -> tuple[Matrix, Matrix]:
        """Backward kernels at the queries and at the keys of the last head, whose channels are sampled, from the gradient at
        its scores."""
        by_query = self.queries.backward(at_scores @ self._key)
        by_key = self.keys.backward(at_scores.T @ self._query)
        weight = self.scale**2 / self._key.shape[1]
        return weight * by_query @ by_query.T, weight * by_key @ by_key.T


def factor(matrix: Matrix) -> Matrix:
    """``L`` with ``L L^T = matrix``: Cholesky, or the eigenvectors where rounding left an eigenvalue below zero."""
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        return vectors * np.sqrt(np.maximum(values, 0.0))


def softmax(scores: Matrix, allowed: Bool[np.ndarray, "tokens tokens"] | None = None) -> Matrix:
    """Row-wise softmax over the ``allowed`` entries."""
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def sampled_forward(heads: Heads, values: Matrix) -> Matrix:
    """``E A V A^T``."""
    value_factor = factor(values)
    total = np.zeros_like(values)
    for attention in heads.attention():
        mixed = attention @ value_factor
        total += mixed @ mixed.T
    return total / heads.sampling.samples


def sampled_backward(heads: Heads, values: Matrix, gradient: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Backward kernels that reach the values, the queries and the keys of the attention matrix.

    ``E A^T G A``, and ``E R K R^T`` and ``E R^T Q R`` with ``R = A * (g - sum_c A_ac g_ac)``, the gradient at the
    scores, for Gaussian scores; the same through the channels of each head where these are sampled.
    """
    through_values, through_queries, through_keys = (np.zeros_like(values) for _ in range(3))
    generator, normals = heads.sampling.generator(1), np.zeros_like(values)
    if not heads.plain:
        value_factor, gradient_factor = factor(values), factor(gradient)
    kernels = (values, values)
    for number, attention in enumerate(heads.attention()):
        through_values += attention.T @ gradient @ attention
        if heads.plain:
            if number % 2 == 0:  # the second of an antithetic pair has the same
                kernels = heads.kernels()
            by_query, by_key = score_gradients(attention, values, gradient, *kernels)
            by_query, by_key = heads.scale**2 * by_query, heads.scale**2 * by_key
        else:
            if number % 2 == 0:
                normals = generator.standard_normal(values.shape)
            at_attention = gradient_factor @ normals @ value_factor.T
            at_scores = attention * (at_attention - np.sum(attention * at_attention, axis=1, keepdims=True))
            by_query, by_key = heads.by_scores(at_scores)
        through_queries += by_query
        through_keys += by_key
    count = heads.sampling.samples
    return through_values / count, through_queries / count, through_keys / count


def score_gradients(
    attention: Matrix, values: Matrix, gradient: Matrix, queries: Matrix, keys: Matrix
) -> tuple[Matrix, Matrix]:
    """``E R K R^T`` and ``E R^T Q R`` over the gradient ``g`` that reaches a given attention matrix, exactly.

    Row ``a`` of ``R`` is ``P_a g_a`` with ``P_a = diag(A_a) - A_a A_a^T``, and ``Cov(g_ab, g_cd) = G_ac V_bd``, so that
    ``E (R K R^T)_ac = G_ac tr(P_a V P_c K)`` and ``E (R^T Q R) = sum_ac Q_ac G_ac P_a V P_c``; written out, both are
    products of matrices over tokens (docs/theory, section 4).
    """
    a, w = attention, queries * gradient
    av, ak = a @ values, a @ keys
    mixed = av @ a.T
    crossed = (av * ak) @ a.T
    by_query = gradient * (a @ (values * keys) @ a.T - crossed - crossed.T + mixed * (ak @ a.T))
    aw = a.T @ w
    crossed = (av.T * aw) @ a
    by_key = values * (aw @ a) - crossed - crossed.T + a.T @ (w * mixed) @ a
    return by_query, by_key


def symmetric_overlap(exponent: Numbers, tokens: int) -> Numbers:
    """``T E sum_b A_ab A_cb -> e^c`` at large T: ``c = q_Q (q_K - p_K)`` for ``a = c``, ``p_Q (q_K - p_K)`` else.

    Valid for ``c`` well below ``2 ln T``: beyond, few tokens dominate the softmax.  The overlap is cut at ``T``,
    which it cannot exceed.
    """
    if isinstance(exponent, np.ndarray):
        return np.exp(np.minimum(exponent, np.log(tokens)))
    return math.exp(min(exponent, math.log(tokens)))
