"""Torch modules of pointwise normalizers: Dynamic Tanh, Dynamic erf, and any built-in function in their place.

Parameters carry the names of the published code: ``alpha``, ``weight`` (gamma), ``bias`` (beta) and, for Derf,
``shift`` (arXiv:2503.10622, arXiv:2512.10938).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from criticality.pointwise import get_function

_TORCH_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "erf": torch.erf,
    "arctan": torch.atan,
    "isru": lambda x: x * torch.rsqrt(1 + x * x),
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "relu": functional.relu,
    "identity": lambda x: x,
}


def torch_function(name: str) -> Callable[[Tensor], Tensor]:
    """A built-in function on torch tensors.

    Raises:
        ValueError: for an unknown name.
    """
    return _TORCH_FUNCTIONS[get_function(name).name]


class DynamicPointwise(nn.Module):
    """``weight * phi(alpha x + shift) + bias`` on the last axis, ``alpha`` and ``shift`` scalars.

    ``function`` is the name or an alias of a built-in function: ``dyt`` (tanh) has no shift, ``derf`` (erf) has one,
    as published; the others have none.

    Raises:
        ValueError: an unknown function; ``alpha`` not finite and positive; ``width`` below 1.
    """

    def __init__(
        self,
        width: int,
        function: str = "dyt",
        alpha: float = 0.5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.function = get_function(function).name
        if not (math.isfinite(alpha) and alpha > 0):
            raise ValueError(f"alpha={alpha!r} must be a finite number above 0")
        if int(width) < 1:
            raise ValueError(f"width={width!r} must be at least 1")
        self.width, self.initial_alpha = int(width), float(alpha)
        self.alpha = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.shift = nn.Parameter(torch.empty(1, device=device, dtype=dtype)) if self.function == "erf" else None
        self.weight = nn.Parameter(torch.empty(self.width, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.width, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``alpha`` as given, ``shift = 0``, ``weight = 1``, ``bias = 0``."""
        nn.init.constant_(self.alpha, self.initial_alpha)
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)
        if self.shift is not None:
            nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        u = self.alpha * x
        if self.shift is not None:
            u = u + self.shift
        return _TORCH_FUNCTIONS[self.function](u) * self.weight + self.bias

    def extra_repr(self) -> str:
        return f"{self.width}, function={self.function}, alpha={self.initial_alpha:g}"
