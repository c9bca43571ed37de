"""The source's recursions for equivalent tokens, written from its formulas and without this library, to be compared with it.

``x <- x + attention(norm x)``, ``x <- x + W2 relu(W1 norm x)``, weights of ``s = sigma_V^2 sigma_O^2`` and
``m = sigma_1^2 sigma_2^2``; state ``q = |x_a|^2 / n``, ``p = x_a . x_b / n``. Both are Alekseev's. ``paper`` is that of the code
published with arXiv 2604.11890: it lets the number of tokens go to infinity forward, and drops the scores. ``post`` is that of
the second post: its backward pass is one number.
"""

from __future__ import annotations

from collections.abc import Callable
from math import asin, pi, sqrt

import numpy as np
from numpy import ndarray

State = tuple[float, float]


def after_norm(alpha: float | None, q: float, p: float) -> tuple[float, float, float, float]:
    """Variance and covariance after LayerNorm (``alpha`` is None) or Derf, and mean squared slopes, of a token and of a pair."""
    if alpha is None:
        return 1.0, p / q, 1 / q, 1 / q
    a = 2 * alpha**2
    slope = 2 * a / pi
    wide = 1 + a * q
    return (
        2 / pi * asin(a * q / wide),
        2 / pi * asin(a * p / wide),
        slope / sqrt(1 + 2 * a * q),
        slope / sqrt(wide**2 - (a * p) ** 2),
    )


def relu_kernel(c: float) -> float:
    """``E relu(x) relu(y)`` at unit variance and correlation ``c``."""
    return (sqrt(1 - c * c) + c * (pi - np.arccos(c))) / (2 * pi)


def relu_slopes(c: float) -> float:
    """``E relu'(x) relu'(y)``."""
    return 0.25 + asin(c) / (2 * pi)


def _forward(
    alpha: float | None, s: float, m: float, depth: int, start: State, attended: Callable[[float, float], State]
) -> list[State]:
    """``(q, p)`` before every sub-layer and at the end; ``attended`` is what attention makes of normed tokens."""
    states = [start]
    for _ in range(depth):
        q, p = states[-1]
        own, other = attended(*after_norm(alpha, q, p)[:2])
        q, p = q + s * own, p + s * other
        states.append((q, p))
        own, other = after_norm(alpha, q, p)[:2]
        states.append((q + m / 2 * own, p + m * own * relu_kernel(min(other / own, 1.0))))
    return states


def paper(alpha: float | None, s: float, m: float, depth: int, tokens: int, start: State) -> ndarray:
    """``log J(l -> depth)`` at every block by the paper's code: ``(u, v)`` backward, the number of tokens finite only there."""
    states = _forward(alpha, s, m, depth, start, lambda own, other: (other, other))
    u, v, log_j = 1.0, 0.0, [0.0]
    for block in reversed(range(depth)):
        own, other, d, pair = after_norm(alpha, *states[2 * block + 1])
        u, v = (1 + m / 2 * d) * u, (1 + m * relu_slopes(min(other / own, 1.0)) * pair) * v
        _, _, d, pair = after_norm(alpha, *states[2 * block])
        u, v = (1 + s * d / tokens) * u + s * d * v, (1 + s * pair) * v + s * pair / tokens * u
        log_j.append(float(np.log(u)))
    return np.array(log_j[::-1])


def post(
    alpha: float | None, s: float, m: float, depth: int, tokens: int, start: State, score_variance: float
) -> ndarray:
    """``log J(l -> depth)`` at every block by the second post: a softmax over Gaussian scores forward, one number backward."""

    def weight(own: float, other: float) -> float:
        return float(np.exp(-score_variance * own * (own - other)))

    def attended(own: float, other: float) -> State:
        w, between = weight(own, other), float(np.exp(-score_variance * other * (own - other)))
        return (
            (own + (tokens - 1) * w * other) / (1 + (tokens - 1) * w),
            (own + (tokens - 1) * between * other) / (1 + (tokens - 1) * between),
        )

    states = _forward(alpha, s, m, depth, start, attended)
    log_j = [0.0]
    for block in reversed(range(depth)):
        mlp = m / 2 * after_norm(alpha, *states[2 * block + 1])[2]
        own, other, d, _ = after_norm(alpha, *states[2 * block])
        log_j.append(log_j[-1] + float(np.log1p(mlp) + np.log1p(s * d / (1 + (tokens - 1) * weight(own, other)))))
    return np.array(log_j[::-1])
