"""Branches of a residual network as kernel maps.

A branch maps the normalized kernel ``K_hat`` to the kernel of its output (``forward``) and the backward kernel of
its output to the backward kernel of its input (``backward``).  Weights are ``N(0, variance / fan_in)``: a
``*_variance`` below is ``fan_in Var(W)``, dimensionless.  Derivations: ``docs/theory.md``, section 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, Protocol

import numpy as np

from criticality.pointwise import Pointwise
from criticality.theory.attention import Matrix, ScoreSampling, sampled_backward, sampled_forward, symmetric_overlap
from criticality.theory.kernels import Numbers, SymmetricKernel, TokenKernel
from criticality.theory.norms import K, PointwiseMap


class Branch(Protocol):
    """What the theory asks of a branch."""

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        """Kernel of the branch's output from that of its (normalized) input."""
        ...

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        """Backward kernel of the input, from the input's kernel and the backward kernel of the output."""
        ...


def _check_variances(branch: Linear | MLP | Attention) -> None:
    for field in fields(branch):
        value = getattr(branch, field.name)
        if field.name.endswith("variance") and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{field.name}={value!r} of {type(branch).__name__} must be a finite variance, 0 or above")


@dataclass(frozen=True)
class Linear:
    """``x -> W x + b``."""

    weight_variance: float = 1.0
    bias_variance: float = 0.0

    def __post_init__(self) -> None:
        _check_variances(self)

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        return kernel.affine(self.weight_variance, self.bias_variance)

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        return gradient.affine(self.weight_variance)


@dataclass(frozen=True)
class MLP:
    """``x -> W_out phi(W_in x + b_in) + b_out``.

    ``ratio`` (hidden width over width) does not enter at infinite width; it is kept for reports and for finite-width
    corrections.
    """

    activation: Pointwise
    in_variance: float = 1.0
    out_variance: float = 1.0
    in_bias_variance: float = 0.0
    out_bias_variance: float = 0.0
    ratio: float = 4.0

    def __post_init__(self) -> None:
        _check_variances(self)
        if not (math.isfinite(self.ratio) and self.ratio > 0):
            raise ValueError(f"ratio={self.ratio!r} of MLP must be a finite number above 0")

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        hidden = self._hidden(kernel).map_pairs(PointwiseMap(self.activation))
        return hidden.affine(self.out_variance, self.out_bias_variance)

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        slopes = self._hidden(kernel).map_pairs(PointwiseMap(self.activation, derivative=True))
        return (gradient * slopes).affine(self.in_variance * self.out_variance)

    def _hidden(self, kernel: K) -> K:
        return kernel.affine(self.in_variance, self.in_bias_variance)


@dataclass(frozen=True)
class Attention:
    """Multi-head softmax attention without mask, ``S = q k^T / sqrt(d_k)``, ``d_v = width / heads``.

    ``scores``: ``"gaussian"`` averages over Gaussian score matrices, by their large-T closed form for symmetric tokens
    and by sampling for token kernels, and sends gradients through the values and through both score paths;
    ``"uniform"`` is the limit of small scores, ``A_ab = 1 / tokens``, values only.
    """

    query_variance: float = 1.0
    key_variance: float = 1.0
    value_variance: float = 1.0
    output_variance: float = 1.0
    query_bias_variance: float = 0.0
    key_bias_variance: float = 0.0
    value_bias_variance: float = 0.0
    output_bias_variance: float = 0.0
    heads: int = 1
    scores: Literal["gaussian", "uniform"] = "gaussian"

    def __post_init__(self) -> None:
        _check_variances(self)
        if self.heads < 1:
            raise ValueError(f"heads={self.heads!r} of Attention must be at least 1")
        if self.scores not in ("gaussian", "uniform"):
            raise ValueError(f"scores={self.scores!r} of Attention must be 'gaussian' or 'uniform'")

    @property
    def score_variance(self) -> float:
        """``sigma_Q^2 sigma_K^2``: the variance of a score between unit tokens, biases aside."""
        return self.query_variance * self.key_variance

    @property
    def value_output_variance(self) -> float:
        """``s_VO = sigma_V^2 sigma_O^2``."""
        return self.value_variance * self.output_variance

    def queries(self, kernel: K) -> K:
        """Kernel of the queries of one head, per channel."""
        return kernel.affine(self.query_variance, self.query_bias_variance)

    def keys(self, kernel: K) -> K:
        """Kernel of the keys."""
        return kernel.affine(self.key_variance, self.key_bias_variance)

    def values(self, kernel: K) -> K:
        """Kernel of the values."""
        return kernel.affine(self.value_variance, self.value_bias_variance)

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        if isinstance(kernel, SymmetricKernel):
            mixed = self._symmetric_forward(kernel)
        else:
            mixed = TokenKernel(self._token_forward(kernel, sampling))
        return mixed.affine(self.output_variance, self.output_bias_variance)

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        if isinstance(kernel, SymmetricKernel):
            return self._symmetric_backward(kernel, gradient)
        return TokenKernel(self._token_backward(kernel, gradient, sampling))

    def _token_forward(self, kernel: TokenKernel, sampling: ScoreSampling) -> Matrix:
        values = self.values(kernel).entries
        if self.scores == "uniform":
            return np.full_like(values, values.mean())
        return sampled_forward(self.queries(kernel).entries, self.keys(kernel).entries, values, sampling)

    def _token_backward(self, kernel: TokenKernel, gradient: TokenKernel, sampling: ScoreSampling) -> Matrix:
        if self.scores == "uniform":
            return np.full_like(gradient.entries, gradient.entries.mean() * self.value_output_variance)
        through_values, through_queries, through_keys = sampled_backward(
            self.queries(kernel).entries,
            self.keys(kernel).entries,
            self.values(kernel).entries,
            gradient.entries * self.output_variance,
            sampling,
        )
        return (
            self.value_variance * through_values
            + self.query_variance * through_queries
            + self.key_variance * through_keys
        )

    def _overlaps(self, kernel: SymmetricKernel) -> tuple[Numbers, Numbers]:
        """``T E sum_b A_ab A_cb`` for ``a = c`` and for ``a != c``."""
        if self.scores == "uniform":
            return kernel.ones().q, kernel.ones().q
        queries, keys = self.queries(kernel), self.keys(kernel)
        spread = keys.q - keys.p
        return symmetric_overlap(queries.q * spread, kernel.tokens), symmetric_overlap(
            queries.p * spread, kernel.tokens
        )

    def _symmetric_forward(self, kernel: SymmetricKernel) -> SymmetricKernel:
        values = self.values(kernel)
        spread = (values.q - values.p) / kernel.tokens
        same, other = self._overlaps(kernel)
        return kernel.with_entries(values.p + spread * same, values.p + spread * other)

    def _symmetric_backward(self, kernel: SymmetricKernel, gradient: SymmetricKernel) -> SymmetricKernel:
        tokens = kernel.tokens
        others = max(tokens - 1, 1)
        same, other = self._overlaps(kernel)
        u, v = gradient.q, gradient.p
        diagonal = self.value_output_variance * (u * same + (tokens - 1) * v * other) / tokens
        off = self.value_output_variance * (u * (1 - same / tokens) / others + v * (1 - other / tokens))
        if self.scores == "gaussian":
            queries, keys, values = self.queries(kernel), self.keys(kernel), self.values(kernel)
            # E over the gradient that reaches the scores, rows of R summing to zero (docs/theory, section 4).
            strength = self.output_variance * (values.q - values.p) * (1 - 1 / tokens) / tokens
            by_queries = self.query_variance * strength * (keys.q - keys.p)
            by_keys = self.key_variance * strength * (u * queries.q * same + (tokens - 1) * v * queries.p * other)
            diagonal = diagonal + by_queries * u * same + by_keys
            off = off + by_queries * v * other - by_keys / others
        return kernel.with_entries(diagonal, off)
