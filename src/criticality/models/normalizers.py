"""Torch modules of pointwise normalizers: Dynamic Tanh, Dynamic erf, and any pointwise function in their place.

Parameters carry the names of the published code: ``alpha``, ``weight`` (gamma), ``bias`` (beta) and, for Derf,
``shift`` (arXiv:2503.10622, arXiv:2512.10938).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from criticality.arguments import Positive, Size, checked
from criticality.errors import CriticalityError
from criticality.models.dynamic import DYNAMIC, dynamic
from criticality.models.functions import is_own, torch_function
from criticality.pointwise import get_function


class DynamicPointwise(nn.Module):
    """``weight * phi(alpha x + shift) + bias`` over channels, ``alpha`` and ``shift`` scalars.

    Args:
        width: channels.
        function: name of any function of ``get_function``: ``dyt`` (tanh) has no shift, ``derf`` (erf) has one, as
            published; the others have none.
        alpha: its initial value.
        affine: whether there are ``weight`` and ``bias``.
        channels_first: channels on axis 1, as in images ``(batch, channels, height, width)``, instead of the last.
        triton: compute tanh and erf on a CUDA card by Triton's kernels; has no effect elsewhere. Not yet measured on one
            (``examples/gpu/normalizers.py`` does), so that it must be asked for; the attribute of that name may be set later.
        device, dtype: of the parameters.

    Raises:
        ValueError: an unknown function; ``alpha`` not finite and positive; ``width`` below 1.
    """

    eps = float("nan")
    """Equal to nothing, not even to itself: by this ``nn.TransformerEncoderLayer`` decides to run its own code in evaluation
    mode, and not a fused one that would take this for a LayerNorm."""

    @checked
    def __init__(
        self,
        width: Size,
        function: str = "dyt",
        alpha: Positive = 0.5,
        *,
        affine: bool = True,
        channels_first: bool = False,
        triton: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        known = get_function(function)
        self.function = function if is_own(function) else known.name
        self.width, self.initial_alpha = int(width), float(alpha)
        self.channels_first, self.triton = channels_first, triton
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.alpha = nn.Parameter(torch.empty(1, **where))
        self.shift = nn.Parameter(torch.empty(1, **where)) if self.function == "erf" else None
        self.weight = nn.Parameter(torch.empty(self.width, **where)) if affine else None
        self.bias = nn.Parameter(torch.empty(self.width, **where)) if affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """``alpha`` as given, ``shift = 0``, ``weight = 1``, ``bias = 0``."""
        nn.init.constant_(self.alpha, self.initial_alpha)
        if self.shift is not None:
            nn.init.zeros_(self.shift)
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        last = self.function in DYNAMIC and not self.channels_first
        if last and self.weight is not None and self.bias is not None:
            return dynamic(self.function, x, self.alpha, self.shift, self.weight, self.bias, self.triton)
        u = self.alpha * x
        y = torch_function(self.function)(u if self.shift is None else u + self.shift)
        if self.weight is None or self.bias is None:
            return y
        trailing = (1,) * (x.ndim - 2) if self.channels_first else ()
        return y * self.weight.view(-1, *trailing) + self.bias.view(-1, *trailing)

    def __prepare_scriptable__(self) -> DynamicPointwise:
        """Called by ``torch.jit.script``, whose language has no choice of a function by its name."""
        raise CriticalityError(
            "model with DynamicPointwise must be exported by torch.export.export, or recorded by torch.jit.trace:"
            " torch.jit.script cannot read it"
        )

    def extra_repr(self) -> str:
        layout = ", channels_first" if self.channels_first else ""
        return f"{self.width}, function={self.function}, alpha={self.initial_alpha:g}{layout}"
