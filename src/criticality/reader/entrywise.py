"""Functions that act entry by entry, composed from the calls that a model makes, and identified by their values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from criticality.errors import CriticalityError, UndescribedError
from criticality.pointwise import Pointwise
from criticality.pointwise.function import PointwiseFunction, pointwise_function
from criticality.pointwise.library import FUNCTIONS

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Entrywise:
    """``scale core(alpha x + shift) + offset``.

    Attributes:
        core: on tensors of double precision; ``None`` is the identity.
        name: of a built-in function that the core is, if it is one call.
    """

    core: Function | None = None
    name: str | None = None
    alpha: float = 1.0
    shift: float = 0.0
    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        inner = self.alpha * x + self.shift
        return self.scale * (inner if self.core is None else self.core(inner)) + self.offset

    def affine(self, scale: float, offset: float = 0.0) -> Entrywise:
        """``scale f + offset``."""
        if self.core is None:
            return replace(self, alpha=self.alpha * scale, shift=self.shift * scale + offset)
        return replace(self, scale=self.scale * scale, offset=self.offset * scale + offset)

    def then(self, core: Function, name: str | None) -> Entrywise:
        """``core(f)``."""
        if self.core is None:
            return Entrywise(core, name, self.alpha, self.shift)
        before = self
        return Entrywise(lambda x: core(before(x)))

    def joined(self, other: Entrywise, how: Callable[[Tensor, Tensor], Tensor]) -> Entrywise:
        """A function of the values of two functions of one entry."""
        before = self
        return Entrywise(lambda x: how(before(x), other(x)))


_GRID = torch.linspace(-6.0, 6.0, 481, dtype=torch.float64)


def is_power(function: Entrywise, power: int) -> float | None:
    """The factor of ``factor x^power``, if that is what a function is."""
    values, plain = function(_GRID), _GRID**power
    factor = float(function(torch.ones(1, dtype=torch.float64)))
    return factor if torch.allclose(values, factor * plain, rtol=1e-9, atol=1e-12) else None


def identified(function: Entrywise) -> Pointwise:
    """The function as the theory has it: a built-in one, or one of its own.

    Raises:
        UndescribedError: it is not finite everywhere.
    """
    f = function
    if f.name is not None and f.alpha > 0:
        return Pointwise(f.name, alpha=f.alpha, shift=f.shift, gamma=f.scale, beta=f.offset)
    if f.name in _ODD and f.alpha < 0:
        return Pointwise(f.name, alpha=-f.alpha, shift=-f.shift, gamma=-f.scale, beta=f.offset)
    if f.core is None and f.alpha > 0 and f.shift == 0.0:
        return Pointwise("identity", alpha=f.alpha)
    values = f(_GRID).numpy()
    if not np.isfinite(values).all():
        raise UndescribedError("an activation must be finite everywhere, and one is not")
    for name, known in FUNCTIONS.items():
        plain = known.value(_GRID.numpy())
        factor = float(values @ plain / (plain @ plain))
        if factor != 0.0 and np.allclose(values, factor * plain, rtol=1e-9, atol=1e-9 * abs(factor)):
            return Pointwise(name, gamma=_near(factor))
    return Pointwise(_own(f, values))


def _near(value: float) -> float:
    return 1.0 if math.isclose(value, 1.0, rel_tol=1e-9) else value


_ODD = ("tanh", "erf", "arctan", "isru", "identity")
_OWN: dict[bytes, PointwiseFunction] = {}


def _own(function: Entrywise, values: np.ndarray) -> PointwiseFunction:
    """One object for functions of the same values, so that blocks alike are alike."""
    key = np.round(values, 9).tobytes()
    if key not in _OWN:

        def value(x: np.ndarray) -> np.ndarray:
            return np.asarray(function(torch.from_numpy(np.ascontiguousarray(x, dtype=float))).numpy())

        def slope(x: np.ndarray) -> np.ndarray:
            with torch.enable_grad(), torch.inference_mode(False):
                at = torch.from_numpy(np.array(x, dtype=float)).requires_grad_()
                (gradient,) = torch.autograd.grad(function(at).sum(), at)
            return np.asarray(gradient.numpy())

        try:
            _OWN[key] = pointwise_function(value, slope, name=f"own function {len(_OWN) + 1}", kinks=(0.0,))
        except CriticalityError as error:
            raise UndescribedError(str(error)) from error
    return _OWN[key]
