"""Branches of a residual network as kernel maps.

A branch maps the normalized kernel ``K_hat`` to the kernel of its output (``forward``) and the backward kernel of
its output to the backward kernel of its input (``backward``).  Weights are ``N(0, variance / fan_in)``: a
``weight_variance`` is ``fan_in Var(W)``, dimensionless.  Derivations: ``docs/theory.md``, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Literal, Protocol

import numpy as np

from criticality.arguments import Finite, Positive, Scale, Size, check_fields
from criticality.errors import ArgumentError, TokensNotEquivalentError
from criticality.moved import renamed_fields
from criticality.pointwise import Pointwise
from criticality.theory.attention import (
    HeadNorm,
    Heads,
    Matrix,
    Rotary,
    ScoreSampling,
    Side,
    sampled_backward,
    sampled_forward,
    softmax,
    symmetric_overlap,
)
from criticality.theory.kernels import Numbers, SymmetricKernel, TokenKernel
from criticality.theory.norms import K, NoNorm, Norm, PointwiseMap


class Branch(Protocol):
    """What the theory asks of a branch."""

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        """Kernel of the branch's output from that of its (normalized) input."""
        ...

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        """Backward kernel of the input, from the input's kernel and the backward kernel of the output."""
        ...


@dataclass(frozen=True)
class Linear:
    """``x -> W x + b``: a branch, and what every other branch is made of."""

    weight_variance: Scale = 1.0
    bias_variance: Scale = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def of(self, kernel: K) -> K:
        """Kernel of ``W x + b``."""
        return kernel.affine(self.weight_variance, self.bias_variance)

    def back(self, gradient: K) -> K:
        """Backward kernel of ``x``."""
        return gradient.affine(self.weight_variance)

    def scaled(self, factor: float) -> Linear:
        """``factor (W x + b)``."""
        return Linear(self.weight_variance * factor**2, self.bias_variance * factor**2)

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        return self.of(kernel)

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        return self.back(gradient)


def _linears(**before: str) -> dict[str, str]:
    """What the two numbers of each projection were called in version 0.1, and are now."""
    weights = {f"{old}_variance": f"{new}, a Linear with weight_variance" for new, old in before.items()}
    return weights | {f"{old}_bias_variance": f"{new}, a Linear with bias_variance" for new, old in before.items()}


@renamed_fields(**_linears(up="in", down="out"))
@dataclass(frozen=True)
class MLP:
    """``x -> down(phi(up(x)))``.

    ``ratio`` (hidden width over width) does not enter at infinite width; it is kept for reports and for finite-width
    corrections.
    """

    activation: Pointwise
    up: Linear = Linear()
    down: Linear = Linear()
    ratio: Positive = 4.0

    def __post_init__(self) -> None:
        check_fields(self)

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        return self.down.of(self.up.of(kernel).map_pairs(PointwiseMap(self.activation)))

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        slopes = self.up.of(kernel).map_pairs(PointwiseMap(self.activation, derivative=True))
        return self.up.back(self.down.back(gradient) * slopes)


@renamed_fields(**_linears(gate="gate", up="up", down="out"))
@dataclass(frozen=True)
class GatedMLP:
    """``x -> down(phi(gate(x)) * up(x))``: SwiGLU, GeGLU (arXiv:2002.05202).

    The two factors are independent, so that their kernels multiply.
    """

    activation: Pointwise
    gate: Linear = Linear()
    up: Linear = Linear()
    down: Linear = Linear()
    ratio: Positive = 8 / 3

    def __post_init__(self) -> None:
        check_fields(self)

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        gate = self.gate.of(kernel).map_pairs(PointwiseMap(self.activation))
        return self.down.of(gate * self.up.of(kernel))

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        before, hidden = self.gate.of(kernel), self.down.back(gradient)
        by_gate = hidden * self.up.of(kernel) * before.map_pairs(PointwiseMap(self.activation, derivative=True))
        by_up = hidden * before.map_pairs(PointwiseMap(self.activation))
        return self.gate.back(by_gate) + self.up.back(by_up)


@dataclass(frozen=True)
class Parallel:
    """Branches side by side on one input, their outputs added: attention and MLP of GPT-J, PaLM, ViT-22B."""

    branches: tuple[Branch, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.branches:
            raise ArgumentError("branches=() of Parallel must hold at least one branch")

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        first, *others = (branch.forward(kernel, sampling) for branch in self.branches)
        return reduce(add, others, first)

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        first, *others = (branch.backward(kernel, gradient, sampling) for branch in self.branches)
        return reduce(add, others, first)


@dataclass(frozen=True)
class Normed:
    """A branch behind a norm of its own, for parallel branches that do not share one (GPT-NeoX)."""

    norm: Norm
    branch: Branch

    def __post_init__(self) -> None:
        check_fields(self)

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        return self.branch.forward(self.norm.forward(kernel), sampling)

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        return self.norm.factor(kernel) * self.branch.backward(self.norm.forward(kernel), gradient, sampling)


def entry_norms(branch: Branch) -> tuple[Norm, ...]:
    """Norms through which a branch and those beside it see what they are given; ``NoNorm`` for one that sees it as it is."""
    if isinstance(branch, Normed):
        return (branch.norm,)
    if isinstance(branch, Parallel):
        return tuple(norm for one in branch.branches for norm in entry_norms(one))
    return (NoNorm(),)


@renamed_fields(
    **_linears(query="query", key="key", value="value", output="output"),
    queries="query.of(kernel)",
    keys="key.of(kernel)",
    values="value.of(kernel)",
)
@dataclass(frozen=True)
class Attention:
    """Multi-head softmax attention, ``S = score_scale q k^T / sqrt(head_dim)``.

    ``scores``: ``"gaussian"`` averages over random scores, by their large-T closed form for symmetric tokens and by
    sampled heads for token kernels, and sends gradients through the values and through both score paths; ``"uniform"``
    is the limit of small scores, all allowed tokens alike, values only.

    Attributes:
        query, key, value, output: the four projections.
        heads, key_value_heads: numbers of heads. Heads that share keys and values (grouped-query, multi-query) have the
            same kernels at large width, as their queries and output weights are independent.
        head_dim: channels of a head; sampled heads have as many, ``None`` is the limit of many.
        causal: each token sees itself and those before it; of these the last ``window``, if given.
        rotary: rotation of queries and keys by position; needs ``head_dim``.
        query_norm, key_norm: QK-norm.
        score_scale: factor on the scores beside ``1 / sqrt(head_dim)``.
    """

    query: Linear = Linear()
    key: Linear = Linear()
    value: Linear = Linear()
    output: Linear = Linear()
    heads: Size = 1
    scores: Literal["gaussian", "uniform"] = "gaussian"
    head_dim: Size | None = None
    key_value_heads: Size | None = None
    causal: bool = False
    window: Size | None = None
    rotary: Rotary | None = None
    query_norm: HeadNorm | None = None
    key_norm: HeadNorm | None = None
    score_scale: Finite = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            raise ArgumentError(
                f"key_value_heads={self.key_value_heads!r} of Attention must divide heads={self.heads!r}"
            )
        if self.window is not None and not self.causal:
            raise ArgumentError(f"window={self.window!r} of Attention must come with causal=True")
        for name in ("rotary", "query_norm", "key_norm"):
            if getattr(self, name) is not None and self.head_dim is None:
                raise ArgumentError(f"{name} of Attention must come with head_dim")
        if self.rotary is not None and self.head_dim is not None and 2 * self.rotary.pairs > self.head_dim:
            raise ArgumentError(f"rotary of Attention must turn no more than head_dim={self.head_dim!r} channels")

    @property
    def score_variance(self) -> float:
        """``sigma_Q^2 sigma_K^2``: the variance of a score between unit tokens, biases, QK-norm and scale aside."""
        return self.query.weight_variance * self.key.weight_variance

    @property
    def value_output_variance(self) -> float:
        """``s_VO = sigma_V^2 sigma_O^2``."""
        return self.value.weight_variance * self.output.weight_variance

    def allowed(self, tokens: int) -> np.ndarray | None:
        """Which tokens (columns) each token (row) sees; ``None`` for all."""
        if not self.causal:
            return None
        distance = np.subtract.outer(np.arange(tokens), np.arange(tokens))
        return (distance >= 0) & (distance < (self.window or tokens))

    def forward(self, kernel: K, sampling: ScoreSampling) -> K:
        if isinstance(kernel, SymmetricKernel):
            mixed = self._symmetric_forward(kernel)
        else:
            mixed = TokenKernel(self._token_forward(kernel, sampling))
        return self.output.of(mixed)

    def backward(self, kernel: K, gradient: K, sampling: ScoreSampling) -> K:
        if isinstance(kernel, SymmetricKernel):
            return self._symmetric_backward(kernel, gradient)
        return TokenKernel(self._token_backward(kernel, gradient, sampling))

    def _uniform(self, tokens: int) -> np.ndarray:
        return softmax(np.zeros((tokens, tokens)), self.allowed(tokens))

    def _heads(self, kernel: TokenKernel, sampling: ScoreSampling) -> Heads:
        return Heads(
            Side(self.query.of(kernel).entries, self.query_norm, self.rotary),
            Side(self.key.of(kernel).entries, self.key_norm, self.rotary),
            self.head_dim,
            self.allowed(kernel.tokens),
            self.score_scale,
            sampling,
        )

    def _token_forward(self, kernel: TokenKernel, sampling: ScoreSampling) -> Matrix:
        values = self.value.of(kernel).entries
        if self.scores == "uniform":
            attention = self._uniform(kernel.tokens)
            return attention @ values @ attention.T
        return sampled_forward(self._heads(kernel, sampling), values)

    def _token_backward(self, kernel: TokenKernel, gradient: TokenKernel, sampling: ScoreSampling) -> Matrix:
        if self.scores == "uniform":
            attention = self._uniform(kernel.tokens)
            return self.value_output_variance * (attention.T @ gradient.entries @ attention)
        return sampled_backward(
            self._heads(kernel, sampling),
            self.value.of(kernel).entries,
            self.output.back(gradient).entries,
            (self.value.weight_variance, self.query.weight_variance, self.key.weight_variance),
        )

    def _symmetric_sides(self, kernel: SymmetricKernel) -> tuple[SymmetricKernel, SymmetricKernel, Numbers, Numbers]:
        """Kernels of queries and keys as they enter the scores, and the factors of gradients through their norms."""
        if self.causal or self.rotary is not None:
            raise TokensNotEquivalentError(
                "Attention with causal=True or rotary tells tokens apart: its kernel must be a TokenKernel, not a"
                " SymmetricKernel"
            )
        sides = []
        for side, norm in ((self.query.of(kernel), self.query_norm), (self.key.of(kernel), self.key_norm)):
            factor = 1.0 if norm is None else norm.gamma**2 / (side.q + norm.epsilon)
            sides.append((side.with_entries(side.q * factor, side.p * factor), factor))
        (queries, query_factor), (keys, key_factor) = sides
        return queries.affine(self.score_scale**2), keys, query_factor * self.score_scale**2, key_factor

    def _overlaps(self, queries: SymmetricKernel, keys: SymmetricKernel) -> tuple[Numbers, Numbers]:
        """``T E sum_b A_ab A_cb`` for ``a = c`` and for ``a != c``."""
        if self.scores == "uniform":
            return queries.ones().q, queries.ones().q
        spread = keys.q - keys.p
        return symmetric_overlap(queries.q * spread, queries.tokens), symmetric_overlap(
            queries.p * spread, queries.tokens
        )

    def _symmetric_forward(self, kernel: SymmetricKernel) -> SymmetricKernel:
        values = self.value.of(kernel)
        queries, keys, _, _ = self._symmetric_sides(kernel)
        spread = (values.q - values.p) / kernel.tokens
        same, other = self._overlaps(queries, keys)
        return kernel.with_entries(values.p + spread * same, values.p + spread * other)

    def _symmetric_backward(self, kernel: SymmetricKernel, gradient: SymmetricKernel) -> SymmetricKernel:
        tokens = kernel.tokens
        others = max(tokens - 1, 1)
        queries, keys, query_factor, key_factor = self._symmetric_sides(kernel)
        same, other = self._overlaps(queries, keys)
        u, v = gradient.q, gradient.p
        diagonal = self.value_output_variance * (u * same + (tokens - 1) * v * other) / tokens
        off = self.value_output_variance * (u * (1 - same / tokens) / others + v * (1 - other / tokens))
        if self.scores == "gaussian":
            values = self.value.of(kernel)
            # E over the gradient that reaches the scores, rows of R summing to zero (docs/theory, section 4).
            strength = self.output.weight_variance * (values.q - values.p) * (1 - 1 / tokens) / tokens
            by_queries = query_factor * self.query.weight_variance * strength * (keys.q - keys.p)
            by_keys = key_factor * self.key.weight_variance * strength
            by_keys = by_keys * (u * queries.q * same + (tokens - 1) * v * queries.p * other)
            diagonal = diagonal + by_queries * u * same + by_keys
            off = off + by_queries * v * other - by_keys / others
        return kernel.with_entries(diagonal, off)
