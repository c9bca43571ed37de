"""Normalizations as kernel maps: ``forward(K)`` is the kernel of the output, ``factor(K)`` multiplies ``G``.

To add one: a frozen dataclass with these two methods.  Pointwise normalizers need nothing: any ``Pointwise`` is
wrapped by ``PointwiseNorm``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from criticality.arguments import Finite, NotNegative, Positive, check_fields, checked, meant
from criticality.errors import ArgumentError, NotFiniteError, UnknownNameError
from criticality.pointwise import ALIASES, FUNCTIONS, ZOO, Pointwise
from criticality.theory.kernels import SymmetricKernel, TokenKernel

K = TypeVar("K", SymmetricKernel, TokenKernel)

KERNEL_TOLERANCE = 1e-8
"""Relative error at which whole token kernels are mapped (the diagonal and symmetric states do as well or better)."""


@dataclass(frozen=True)
class PointwiseMap:
    """The kernel map of a pointwise function, or of its derivative, as a ``PairMap``."""

    pointwise: Pointwise
    derivative: bool = False

    def pairs(self, q: np.ndarray, left: np.ndarray, right: np.ndarray, rho: np.ndarray) -> np.ndarray:
        return self.pointwise.pairs(q, left, right, rho, self.derivative, KERNEL_TOLERANCE)

    def equal(self, q: float, rho: float) -> tuple[float, float]:
        return self.pointwise.equal(q, rho, self.derivative, KERNEL_TOLERANCE)


class Norm(Protocol):
    """What the theory asks of a normalization."""

    def forward(self, kernel: K) -> K:
        """``K_hat`` from ``K``."""
        ...

    def factor(self, kernel: K) -> K:
        """``K_dot``: the backward kernel before the norm is ``K_dot * G_hat`` (entry by entry)."""
        ...


@dataclass(frozen=True)
class LayerNorm:
    """LayerNorm at large width: ``K_hat_ab = gamma^2 K_ab / sqrt((K_aa + eps)(K_bb + eps)) + beta^2``.

    ``gamma`` and ``beta`` are root mean squares over channels.  RMSNorm is the same map at large width, as the mean
    over channels and the projection along ``x`` are of order ``1/width`` (docs/theory, section 3).
    """

    epsilon: NotNegative = 1e-6
    gamma: Finite = 1.0
    beta: Finite = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def forward(self, kernel: K) -> K:
        return (self.factor(kernel) * kernel).affine(1.0, self.beta**2)

    def factor(self, kernel: K) -> K:
        if self.epsilon == 0.0 and np.any(kernel.mean_diagonal() == 0.0):
            raise NotFiniteError("epsilon=0.0 must be above 0 for LayerNorm of a stream with variance 0")
        return kernel.map_variances(lambda q: self.gamma**2 / (q + self.epsilon))


class RMSNorm(LayerNorm):
    """RMSNorm: at large width the map of ``LayerNorm``."""


@dataclass(frozen=True)
class PointwiseNorm:
    """A pointwise function in the place of a norm: DyT, Derf, or any other."""

    pointwise: Pointwise

    def __post_init__(self) -> None:
        check_fields(self)

    def forward(self, kernel: K) -> K:
        return kernel.map_pairs(PointwiseMap(self.pointwise))

    def factor(self, kernel: K) -> K:
        return kernel.map_pairs(PointwiseMap(self.pointwise, derivative=True))


@dataclass(frozen=True)
class NoNorm:
    """No normalization."""

    def forward(self, kernel: K) -> K:
        return kernel

    def factor(self, kernel: K) -> K:
        return kernel.ones()


@checked
def make_norm(name: str, alpha: Positive | None = None, epsilon: NotNegative = 1e-6) -> Norm:
    """A norm by name: ``ln``, ``rms``, ``none``, or any function of ``get_function`` with its ``alpha`` (default 1).

    Raises:
        ValueError: for an unknown name, an ``alpha`` that is not finite and positive, or one for a norm that has none.
    """
    key = name.lower()
    if alpha is not None and not takes_alpha(name):
        raise ArgumentError(f"alpha={alpha!r} must be left out for norm {name!r}, which has none")
    if key in LAYER_NORMS:
        return LayerNorm(epsilon)
    if key in RMS_NORMS:
        return RMSNorm(epsilon)
    if key == "none":
        return NoNorm()
    try:
        return PointwiseNorm(Pointwise(name, alpha=1.0 if alpha is None else alpha))
    except UnknownNameError as error:
        near = meant(key, [*NAMES, *FUNCTIONS, *ALIASES, *ZOO])
        said = str(error).partition(";")[2]
        raise UnknownNameError(f"norm {name!r} is unknown{near};{said}, {', '.join(NAMES)}") from None


LAYER_NORMS = ("ln", "layernorm")
RMS_NORMS = ("rms", "rmsnorm")
NAMES = ("ln", "rms", "none")


def takes_alpha(name: str) -> bool:
    """Whether the norm of that name is a pointwise function, and so has an ``alpha``."""
    return str(name).lower() not in (*LAYER_NORMS, *RMS_NORMS, "none")
