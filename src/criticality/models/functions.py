"""Pointwise functions on torch tensors: the built-in ones, those of the zoo, and files of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

from criticality.pointwise import get_function

TensorFunction = Callable[[Tensor], Tensor]


def _odd(half: TensorFunction) -> TensorFunction:
    """From its values at ``x >= 0``; at 0 its slope is that from the right."""
    return lambda x: torch.where(x >= 0, half(x.clamp_min(0)), -half((-x).clamp_min(0)))


def _power(exponent: float) -> TensorFunction:
    return _odd(lambda x: torch.expm1(exponent * torch.log1p(x)))


TORCH_FUNCTIONS: dict[str, TensorFunction] = {
    "tanh": torch.tanh,
    "erf": torch.erf,
    "arctan": torch.atan,
    "isru": lambda x: x * torch.rsqrt(1 + x * x),
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "relu": functional.relu,
    "identity": lambda x: x.view_as(x),  # what comes out of a call is another tensor
    "sin": torch.sin,
    "satursin": lambda x: torch.sin(x.clamp(-math.pi / 2, math.pi / 2)),
    "arctan_scaled": lambda x: 2 / math.pi * torch.atan(x),
    "expsign": _odd(lambda x: -torch.expm1(-x)),
    "cubsign": lambda x: x * x * x / (1 + torch.abs(x) ** 3),
    "relsign": lambda x: x / (torch.sqrt(x * x + 1) + 1),
    "smoothsign": lambda x: x / (1 + torch.abs(x)),
    "softsign": lambda x: x / (1 + torch.abs(x)),
    "exproot": lambda x: -torch.sign(x) * torch.expm1(-torch.sqrt(torch.abs(x).clamp_min(1e-30))),
    "saturlog": _odd(lambda x: torch.log1p(x) / (1 + torch.log1p(x))),
    "linear_clip": lambda x: x.clamp(-1, 1),
    "logsign_clip": lambda x: (torch.sign(x) * torch.log1p(torch.abs(x))).clamp(-1, 1),
    "logquad_clip": lambda x: (torch.sign(x) * torch.log1p(x * x)).clamp(-1, 1),
    "power23_clip": lambda x: (torch.sign(x) * torch.abs(x).clamp_min(1e-30) ** (2 / 3)).clamp(-1, 1),
    "logsign": _odd(torch.log1p),
    **{f"power{p:g}": _power(p) for p in (0.25, 0.4, 0.6, 2 / 3, 0.8)},
}


def named_pointwise(x: Tensor, name: str) -> Tensor:
    """``TORCH_FUNCTIONS[name]``; to modes of torch that watch a model one call, whatever it is made of."""
    if has_torch_function_unary(x):
        return handle_torch_function(named_pointwise, (x,), x, name)
    return TORCH_FUNCTIONS[name](x)


@torch.library.custom_op("criticality::pointwise", mutates_args=())
def of_arrays(x: Tensor, name: str) -> Tensor:
    """A function of float64 arrays by its name, as one operation of torch: what watches, exports or compiles a model sees one call.

    Slow where the tensor is not on the CPU.
    """
    return _mapped(get_function(name).value, x)


@torch.library.custom_op("criticality::pointwise_slope", mutates_args=())
def slope_of_arrays(x: Tensor, name: str) -> Tensor:
    """Its derivative, likewise."""
    return _mapped(get_function(name).derivative, x)


def _mapped(call: Callable[[Any], Any], x: Tensor) -> Tensor:
    return torch.as_tensor(call(x.detach().double().cpu().numpy())).to(x)


def _keep(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    x, ctx.function = inputs
    ctx.save_for_backward(x)


def _back(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return gradient * slope_of_arrays(ctx.saved_tensors[0], ctx.function), None


of_arrays.register_autograd(_back, setup_context=_keep)
for _operation in (of_arrays, slope_of_arrays):
    _operation.register_fake(lambda x, name: torch.empty_like(x))


def torch_function(name: str) -> TensorFunction:
    """A function of ``get_function`` on torch tensors.

    Raises:
        ValueError: for an unknown name; one's own file is looked at when the function is called.
    """
    call, known = (of_arrays, name) if is_own(name) else (named_pointwise, get_function(name).name)
    return lambda x: call(x, known)


def is_own(name: str) -> bool:
    """Whether it is in a file of one's own."""
    return ".py:" in str(name)
