"""Averages over the random attention matrix: sampled for token kernels, closed at large T for symmetric tokens.

At large width the scores of a head are Gaussian, ``Cov(S_ab, S_cd) = Q_ac K_bd`` with ``Q``, ``K`` the kernels of
queries and keys: ``S = L_Q Z L_K^T``, ``Z`` standard normal.  The gradient that reaches the attention matrix is
Gaussian too, independent of ``S``: ``g = L_G Z' L_V^T`` (docs/theory, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from criticality.theory.kernels import Numbers

Matrix = Float[np.ndarray, "tokens tokens"]


@dataclass(frozen=True)
class ScoreSampling:
    """How attention averages are sampled: ``samples`` score matrices per layer, in antithetic pairs, from ``seed``.

    Forward and backward of one layer draw the same matrices.
    """

    samples: int = 16
    seed: int = 0
    layer: int = 0

    def __post_init__(self) -> None:
        if self.samples < 2 or self.samples % 2:
            raise ValueError(f"samples={self.samples!r} must be an even number, 2 or above")

    def at(self, layer: int) -> ScoreSampling:
        """The stream of random numbers of one layer."""
        return ScoreSampling(self.samples, self.seed, layer)

    def normals(self, purpose: int, tokens: int) -> Iterator[np.ndarray]:
        generator = np.random.default_rng([self.seed, self.layer, purpose])
        for _ in range(self.samples // 2):
            yield generator.standard_normal((tokens, tokens))


def factor(matrix: Matrix) -> Matrix:
    """``L`` with ``L L^T = matrix``: Cholesky, or the eigenvectors where rounding left an eigenvalue below zero."""
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        return vectors * np.sqrt(np.maximum(values, 0.0))


def softmax(scores: Matrix) -> Matrix:
    """Row-wise softmax."""
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def sampled_forward(queries: Matrix, keys: Matrix, values: Matrix, sampling: ScoreSampling) -> Matrix:
    """``E A V A^T`` over Gaussian scores."""
    query_factor, key_factor, value_factor = factor(queries), factor(keys), factor(values)
    total = np.zeros_like(queries)
    for z in sampling.normals(0, len(queries)):
        scores = query_factor @ z @ key_factor.T
        for sign in (1.0, -1.0):
            mixed = softmax(sign * scores) @ value_factor
            total += mixed @ mixed.T
    return total / sampling.samples


def sampled_backward(
    queries: Matrix, keys: Matrix, values: Matrix, gradient: Matrix, sampling: ScoreSampling
) -> tuple[Matrix, Matrix, Matrix]:
    """Backward kernels that reach the values, the queries and the keys of the attention matrix.

    ``E A^T G A``, ``E R K R^T`` and ``E R^T Q R`` with ``R = A * (g - sum_c A_ac g_ac)``, the gradient at the scores.
    """
    query_factor, key_factor, value_factor = factor(queries), factor(keys), factor(values)
    gradient_factor = factor(gradient)
    through_values, through_queries, through_keys = (np.zeros_like(queries) for _ in range(3))
    scores_draws = sampling.normals(0, len(queries))
    gradient_draws = sampling.normals(1, len(queries))
    for z, z_gradient in zip(scores_draws, gradient_draws, strict=True):
        scores = query_factor @ z @ key_factor.T
        at_attention = gradient_factor @ z_gradient @ value_factor.T
        for sign in (1.0, -1.0):
            attention = softmax(sign * scores)
            by_value = attention.T @ gradient_factor
            through_values += by_value @ by_value.T
            at_scores = attention * (at_attention - np.sum(attention * at_attention, axis=1, keepdims=True))
            by_query, by_key = at_scores @ key_factor, at_scores.T @ query_factor
            through_queries += by_query @ by_query.T
            through_keys += by_key @ by_key.T
    count = sampling.samples
    return through_values / count, through_queries / count, through_keys / count


def symmetric_overlap(exponent: Numbers, tokens: int) -> Numbers:
    """``T E sum_b A_ab A_cb -> e^c`` at large T: ``c = q_Q (q_K - p_K)`` for ``a = c``, ``p_Q (q_K - p_K)`` else.

    Valid for ``c`` well below ``2 ln T``: beyond, few tokens dominate the softmax.  The overlap is cut at ``T``,
    which it cannot exceed.
    """
    if isinstance(exponent, np.ndarray):
        return np.exp(np.minimum(exponent, np.log(tokens)))
    return math.exp(min(exponent, math.log(tokens)))
