"""Dynamic Tanh and Dynamic erf for training: one saved tensor, and one pass over memory under ``torch.compile``.

The input is saved and everything else is computed again on the way back.  Compiled for the CPU in float32, tanh and erf are
quotients of two polynomials (``RATIONAL``), which a compiler turns into vector instructions; the library calls that it makes of
``torch.tanh`` and ``torch.erf`` cost more than all the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from criticality.extras import require

_TWO_OVER_ROOT_PI = 1.1283791670955126


class Rational(NamedTuple):
    """``phi(u) = u P(u^2) / Q(u^2)`` for ``|u| <= bound``, and its value there beyond.

    Attributes:
        numerator, denominator: coefficients of ``P`` and ``Q`` from the highest power down.
        bound: from which ``phi`` is within 4e-7 of 1.
    """

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    bound: float

    def __call__(self, u: Tensor) -> Tensor:
        u = u.clamp(-self.bound, self.bound)
        square = u * u
        return u * _polynomial(self.numerator, square) / _polynomial(self.denominator, square)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    value = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


RATIONAL: dict[str, Rational] = {
    "tanh": Rational(  # 5.7e-09 in exact arithmetic
        (1.542924519e-08, 2.202414606e-05, 3.579046369e-03, 1.345066628e-01, 9.999999944e-01),
        (8.599295090e-07, 3.423739649e-04, 2.619244450e-02, 4.678399431e-01, 1.000000000e00),
        7.9,
    ),
    "erf": Rational(  # 4.8e-09 in exact arithmetic
        (2.326049197e-06, 2.915810005e-04, 3.432442461e-03, 5.181683020e-02, 1.808587548e-01, 1.128379162e00),
        (4.125416869e-05, 1.106823778e-03, 1.430841114e-02, 1.104606643e-01, 4.936150763e-01, 1.000000000e00),
        3.6,
    ),
}
"""Made by ``tests/data/make_rational.py``: within 5e-7 of the functions, relatively, in float32."""

_VALUE: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "erf": torch.erf}

DYNAMIC = tuple(_VALUE)
"""Functions that are computed with one saved tensor."""


def plain(function: str, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """The formula, in torch's own operations."""
    return _VALUE[function](_argument(x, alpha, shift)) * weight + bias


def _argument(x: Tensor, alpha: Tensor, shift: Tensor | None) -> Tensor:
    u = alpha * x
    return u if shift is None else u + shift


def dynamic(
    function: str,
    x: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    triton: bool = False,
) -> Tensor:
    """``weight phi(alpha x + shift) + bias`` over the last axis, with gradients of all that is given; ``triton``: by the kernels of
    ``triton_dynamic`` where these can run.

    Whatever looks into the operations (export, tracing, fake tensors and other modes and subclasses of tensors, the transforms
    of ``torch.func``, forward-mode differentiation) gets the plain formula.
    """
    tensors = [tensor for tensor in (x, alpha, shift, weight, bias) if tensor is not None]
    if torch.compiler.is_compiling():
        fits = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        if torch.compiler.is_exporting() or not fits:
            return plain(function, x, alpha, shift, weight, bias)
    elif _watched() or not all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors):
        return plain(function, x, alpha, shift, weight, bias)
    elif triton and _fits_triton(x, alpha, shift, weight, bias):
        require("triton")
        from criticality.models.triton_dynamic import TritonDynamic

        return cast(Tensor, TritonDynamic.apply(function, x, alpha, shift, weight, bias))
    return cast(Tensor, Dynamic.apply(function, x, alpha, shift, weight, bias))


def _fits_triton(x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor) -> bool:
    """Whether the kernels can run: on a card, or interpreted as their tests do, and on tensors of the usual shapes."""
    where = x.is_cuda or (x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
    scalars = [alpha] if shift is None else [alpha, shift]
    shapes = weight.shape == bias.shape == x.shape[-1:] and all(one.numel() == 1 for one in scalars)
    return where and shapes and all(one.dtype in _STORED for one in (x, *scalars, weight, bias))


_STORED = (torch.float32, torch.float16, torch.bfloat16)


def _watched() -> bool:
    """Whether somebody wants to see each operation, or differentiates in another way than backwards."""
    return (
        torch.jit.is_tracing()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or _get_current_dispatch_mode() is not None
    )


def _value(function: str, u: Tensor) -> Tensor:
    return RATIONAL[function](u) if torch.compiler.is_compiling() else _VALUE[function](u)


class Dynamic(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: str, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x, alpha, shift, weight, bias)
        return _value(function, _argument(x, alpha, shift)) * weight + bias

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, shift, weight, bias = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # differentiated again
            wanted = [t for t, need in zip((x, alpha, shift, weight, bias), needed, strict=True) if need]
            value = plain(ctx.function, x, alpha, shift, weight, bias)
            each = iter(torch.autograd.grad(value, wanted, g, create_graph=True))
            return None, *(next(each) if need else None for need in needed)
        u = _argument(x, alpha, shift)
        value = _value(ctx.function, u)
        slope = (
            (value * value).neg_().add_(1)
            if ctx.function == "tanh"
            else u.square_().neg_().exp_().mul_(_TWO_OVER_ROOT_PI)
        )
        s = slope.mul_(weight).mul_(g)
        gradients = (alpha * s, s * x, s, value.mul_(g), g)
        return None, *(
            gradient.sum_to_size(tensor.shape).to(tensor.dtype) if need else None
            for gradient, tensor, need in zip(gradients, (x, alpha, shift, weight, bias), needed, strict=True)
        )
