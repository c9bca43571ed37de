"""The state of the recursion: forward kernels ``K`` and backward kernels ``G``, in two representations.

``K_ab = E x_a . x_b / n`` and ``G_ab = E delta_a . delta_b / n`` over tokens ``a, b`` (docs/theory, section 1).
``TokenKernel`` holds the full matrix; ``SymmetricKernel`` the two numbers that are left when all tokens are
equivalent, ``(q, p)`` for ``K = (q - p) I + p 1 1^T``.  Norms and branches are written once for both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from criticality.arguments import Covariance, Size, Variance, checked
from criticality.errors import ArgumentError, NotFiniteError
from criticality.shapes import Float

Numbers = float | np.ndarray
"""One number, or one for each of several layers."""


class PairMap(Protocol):
    """A map of kernels that takes each entry from the two variances and the correlation of its tokens."""

    def pairs(self, q: np.ndarray, left: np.ndarray, right: np.ndarray, rho: np.ndarray) -> np.ndarray:
        """Entries of the pairs of variances ``(q[left], q[right])`` at the correlations ``rho``, all of one axis."""
        ...

    def equal(self, q: float, rho: float) -> tuple[float, float]:
        """The entries of equal variance ``q`` at correlation 1 and at ``rho``."""
        ...


class Kernel(ABC):
    """Second moments of tokens; ``+`` and ``*`` act entry by entry, ``*`` being Hadamard's product."""

    __slots__ = ()

    @property
    @abstractmethod
    def tokens(self) -> int:
        """Number of tokens."""

    @abstractmethod
    def map_pairs(self, function: PairMap) -> Self:
        """The kernel of entries ``function(K_aa, K_bb, rho_ab)``, ``rho`` the correlation, exactly 1 for ``a = b``."""

    @abstractmethod
    def map_variances(self, function: Callable[[Any], Any]) -> Self:
        """The kernel of entries ``sqrt(function(K_aa) function(K_bb))``."""

    @abstractmethod
    def affine(self, scale: float, shift: float = 0.0) -> Self:
        """``scale K + shift``."""

    @abstractmethod
    def __add__(self, other: Self) -> Self: ...

    @abstractmethod
    def __mul__(self, other: Self) -> Self: ...

    @abstractmethod
    def mean_diagonal(self) -> Numbers:
        """``tr K / tokens``."""

    @abstractmethod
    def mean_off_diagonal(self) -> Numbers:
        """Mean of ``K_ab`` over ``a != b``; nan for one token."""

    @abstractmethod
    def mean_correlation(self) -> Numbers:
        """Mean of ``rho_ab`` over ``a != b``; nan for one token."""

    @abstractmethod
    def ones(self) -> Self:
        """The kernel with every entry 1."""


class SymmetricKernel(Kernel):
    """Equivalent tokens: ``q = K_aa`` and ``p = K_ab``, floats or, for several layers at once, arrays.

    Without attention, tokens do not interact: then ``p`` is the covariance of two inputs, and ``tokens`` plays no
    part.
    """

    __slots__ = ("_tokens", "p", "q")

    def __init__(self, q: Numbers, p: Numbers, tokens: int):
        self.q, self.p, self._tokens = q, p, tokens

    @classmethod
    @checked
    def of(cls, q: Variance, p: Covariance = 0.0, tokens: Size = 2) -> SymmetricKernel:
        """The state ``(q, p)`` of ``tokens`` tokens.

        Raises:
            ValueError: ``q`` negative, ``|p| > q`` or a value that is not finite; ``tokens`` below 1.
        """
        if not abs(p) <= q * (1 + 1e-12):
            raise ArgumentError(f"p={p!r} must be a covariance with |p| <= q = {q!r}")
        return cls(float(q), float(p), int(tokens))

    @classmethod
    def mean_of(cls, kernels: Sequence[Kernel]) -> SymmetricKernel:
        """As many equivalent tokens as the inputs have, with the mean variance and covariance of all their tokens and pairs.

        Raises:
            ArgumentError: no kernel, or kernels of different numbers of tokens.
        """
        if len({kernel.tokens for kernel in kernels}) != 1:
            raise ArgumentError(
                f"kernels of {[k.tokens for k in kernels]} tokens must be at least one, all of one number"
            )
        q = float(np.mean([kernel.mean_diagonal() for kernel in kernels]))
        tokens = kernels[0].tokens
        p = float(np.mean([kernel.mean_off_diagonal() for kernel in kernels])) if tokens > 1 else q
        return cls.of(q, p, tokens)

    @classmethod
    def stack(cls, kernels: Sequence[SymmetricKernel]) -> SymmetricKernel:
        """Several layers as one."""
        if len(kernels) == 1:
            return kernels[0]  # numbers, without the overhead of arrays
        return cls(np.array([k.q for k in kernels]), np.array([k.p for k in kernels]), kernels[0].tokens)

    @property
    def tokens(self) -> int:
        return self._tokens

    def with_entries(self, q: Numbers, p: Numbers) -> SymmetricKernel:
        """The state ``(q, p)`` of as many tokens."""
        return SymmetricKernel(q, p, self._tokens)

    def map_pairs(self, function: PairMap) -> SymmetricKernel:
        q, p = self.q, self.p
        if not isinstance(q, np.ndarray) and not isinstance(p, np.ndarray):
            if self._tokens == 1:
                return SymmetricKernel(*function.equal(q, 1.0), 1)
            rho = max(-1.0, min(1.0, p / q)) if q > 0 else 1.0
            return SymmetricKernel(*function.equal(q, rho), self._tokens)
        variances = np.asarray(q)
        one = np.ones_like(variances)
        rho = np.clip(np.divide(p, variances, out=one.copy(), where=variances > 0), -1.0, 1.0)
        index = np.tile(np.arange(variances.size), 2)
        values = function.pairs(variances, index, index, np.concatenate([one, rho]))
        return SymmetricKernel(values[: variances.size], values[variances.size :], self._tokens)

    def map_variances(self, function: Callable[[Any], Any]) -> SymmetricKernel:
        value = function(self.q)
        return SymmetricKernel(value, value, self._tokens)

    def affine(self, scale: float, shift: float = 0.0) -> SymmetricKernel:
        return SymmetricKernel(self.q * scale + shift, self.p * scale + shift, self._tokens)

    def __add__(self, other: SymmetricKernel) -> SymmetricKernel:
        return SymmetricKernel(self.q + other.q, self.p + other.p, self._tokens)

    def __mul__(self, other: SymmetricKernel) -> SymmetricKernel:
        return SymmetricKernel(self.q * other.q, self.p * other.p, self._tokens)

    def mean_diagonal(self) -> Numbers:
        return self.q

    def mean_off_diagonal(self) -> Numbers:
        return self.p if self._tokens > 1 else math.nan

    def mean_correlation(self) -> Numbers:
        if isinstance(self.q, float) and self.q == 0.0:
            return math.nan
        return self.mean_off_diagonal() / self.q

    def ones(self) -> SymmetricKernel:
        one = np.ones_like(self.q) if isinstance(self.q, np.ndarray) else 1.0
        return SymmetricKernel(one, one, self._tokens)


@lru_cache(maxsize=4)
def _upper(tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the upper triangle, and where in it the diagonal is."""
    rows, columns = np.triu_indices(tokens)
    return rows, columns, np.flatnonzero(rows == columns)


class TokenKernel(Kernel):
    """The full symmetric matrix, ``entries`` of shape ``(tokens, tokens)``; inside the engine those of several inputs along axes
    in front, which all maps keep."""

    __slots__ = ("entries",)

    def __init__(self, entries: Float[np.ndarray, "... tokens tokens"]):
        self.entries = entries

    @classmethod
    @checked
    def of(cls, matrix: ArrayLike) -> TokenKernel:
        """Check and wrap a kernel matrix.

        Raises:
            ValueError: not square, not symmetric, not finite, or with an eigenvalue below zero by more than rounding.
        """
        entries = np.array(matrix, dtype=float)
        if entries.ndim != 2 or entries.shape[0] != entries.shape[1] or entries.size == 0:
            raise ArgumentError(f"kernel must be a square matrix, got the shape {entries.shape}")
        if not np.all(np.isfinite(entries)):
            raise NotFiniteError("kernel must be finite, but has entries that are nan or infinite")
        scale = float(np.abs(entries).max())
        if not np.allclose(entries, entries.T, rtol=0, atol=1e-6 * scale):
            raise ArgumentError("kernel must be symmetric")
        entries = (entries + entries.T) / 2
        lowest = float(np.linalg.eigvalsh(entries)[0])
        if lowest < -1e-5 * scale:
            raise ArgumentError(f"kernel must be positive semidefinite, but has the eigenvalue {lowest:g}")
        return cls(entries)

    @property
    def tokens(self) -> int:
        return int(self.entries.shape[-1])

    def map_pairs(self, function: PairMap) -> TokenKernel:
        rows, columns, diagonal = _upper(self.tokens)
        q = self._diagonal()
        inverse = np.divide(1.0, np.sqrt(q), out=np.zeros_like(q), where=q > 0)
        rho = np.clip((self.entries * inverse[..., None] * inverse[..., None, :])[..., rows, columns], -1.0, 1.0)
        rho[..., diagonal] = 1.0
        first = np.arange(0, q.size, self.tokens)[:, None]  # of each input, all tokens being numbered through
        values = function.pairs(q.ravel(), (first + rows).ravel(), (first + columns).ravel(), rho.ravel())
        mapped = np.empty_like(self.entries)
        mapped[..., rows, columns] = mapped[..., columns, rows] = values.reshape(rho.shape)
        return TokenKernel(mapped)

    def map_variances(self, function: Callable[[Any], Any]) -> TokenKernel:
        root = np.sqrt(function(self._diagonal()))
        return TokenKernel(root[..., None] * root[..., None, :])

    def affine(self, scale: float, shift: float = 0.0) -> TokenKernel:
        return TokenKernel(self.entries * scale + shift)

    def __add__(self, other: TokenKernel) -> TokenKernel:
        return TokenKernel(self.entries + other.entries)

    def __mul__(self, other: TokenKernel) -> TokenKernel:
        return TokenKernel(self.entries * other.entries)

    def mean_diagonal(self) -> Numbers:
        return _numbers(np.mean(self._diagonal(), axis=-1))

    def mean_off_diagonal(self) -> Numbers:
        return _off_diagonal_mean(self.entries)

    def mean_correlation(self) -> Numbers:
        root = np.sqrt(self._diagonal())
        with np.errstate(invalid="ignore", divide="ignore"):
            return _off_diagonal_mean(self.entries / root[..., None] / root[..., None, :])

    def ones(self) -> TokenKernel:
        return TokenKernel(np.ones_like(self.entries))

    def _diagonal(self) -> Float[np.ndarray, "... tokens"]:
        return np.diagonal(self.entries, axis1=-2, axis2=-1)


def _off_diagonal_mean(matrix: Float[np.ndarray, "... tokens tokens"]) -> Numbers:
    tokens = matrix.shape[-1]
    if tokens == 1:
        return _numbers(np.full(matrix.shape[:-2], math.nan))
    both = matrix.sum(axis=(-2, -1)) - np.trace(matrix, axis1=-2, axis2=-1)
    return _numbers(both / (tokens * (tokens - 1)))


def _numbers(values: Any) -> Numbers:
    return values if np.ndim(values) else float(values)
