"""Dynamic Tanh and Dynamic erf as two Triton kernels, which move no more memory than LayerNorm's: forward reads ``x`` and writes
``y``; backward reads ``x`` and the gradient, writes that of ``x``, and sums those of the parameters on the way.

tanh and erf are ``RATIONAL``, as on the CPU; all is computed in float32, whatever ``x`` is stored in.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from criticality.models.dynamic import RATIONAL, Dynamic

_COLUMNS, _ROWS, _LOADED = 128, 16, 8
"""Of a tile, and tiles that one program takes after another, the columns being its own."""


@triton.jit
def _polynomial(coefficients: tl.constexpr, x):
    value = coefficients[0] * x + coefficients[1]
    for k in tl.static_range(2, len(coefficients)):
        value = value * x + coefficients[k]
    return value


@triton.jit
def _phi(u, numerator: tl.constexpr, denominator: tl.constexpr, bound: tl.constexpr):
    u = tl.where(u > bound, bound, tl.where(u < -bound, -bound, u))  # nan stays nan
    square = u * u
    return u * _polynomial(numerator, square) / _polynomial(denominator, square)


@triton.jit
def _forward(
    x_at,
    alpha_at,
    shift_at,
    weight_at,
    bias_at,
    y_at,
    rows,
    width,
    shifted: tl.constexpr,
    numerator: tl.constexpr,
    denominator: tl.constexpr,
    bound: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < width)
    place = row.to(tl.int64) * width + column
    u = tl.load(x_at + place, inside, 0.0).to(tl.float32) * tl.load(alpha_at).to(tl.float32)
    if shifted:
        u += tl.load(shift_at).to(tl.float32)
    weight = tl.load(weight_at + column, column < width, 0.0).to(tl.float32)
    bias = tl.load(bias_at + column, column < width, 0.0).to(tl.float32)
    y = _phi(u, numerator, denominator, bound) * weight + bias
    tl.store(y_at + place, y.to(y_at.dtype.element_ty), inside)


@triton.jit
def _backward(
    x_at,
    alpha_at,
    shift_at,
    weight_at,
    g_at,
    dx_at,
    scalars_at,
    channels_at,
    rows,
    width,
    is_tanh: tl.constexpr,
    shifted: tl.constexpr,
    parameters: tl.constexpr,
    numerator: tl.constexpr,
    denominator: tl.constexpr,
    bound: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TILES: tl.constexpr,
):
    """``scalars_at`` holds sums for alpha and shift, ``(2, groups, tiles of columns)``; ``channels_at`` those for weight and bias,
    ``(2, groups, width)``: one program adds up its own rows, and nothing is added in an order that is not given."""
    group, groups = tl.program_id(0), tl.num_programs(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    alpha = tl.load(alpha_at).to(tl.float32)
    weight = tl.load(weight_at + column, column < width, 0.0).to(tl.float32)
    of_alpha = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_shift = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_weight = tl.zeros((ROWS, COLUMNS), tl.float32)
    of_bias = tl.zeros((ROWS, COLUMNS), tl.float32)
    for tile in range(TILES):
        row = (group * TILES + tile) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < width)
        place = row.to(tl.int64) * width + column
        x = tl.load(x_at + place, inside, 0.0).to(tl.float32)
        g = tl.load(g_at + place, inside, 0.0).to(tl.float32)
        u = x * alpha
        if shifted:
            u += tl.load(shift_at).to(tl.float32)
        value = _phi(u, numerator, denominator, bound)
        slope = 1.0 - value * value if is_tanh else 1.1283791670955126 * tl.exp(-u * u)
        s = g * weight * slope
        tl.store(dx_at + place, (alpha * s).to(dx_at.dtype.element_ty), inside)
        if parameters:
            of_alpha += s * x
            of_shift += s
            of_weight += g * value
            of_bias += g
    if parameters:
        size = groups * tl.num_programs(1)
        here = group * tl.num_programs(1) + tl.program_id(1)
        tl.store(scalars_at + here, tl.sum(of_alpha))
        tl.store(scalars_at + size + here, tl.sum(of_shift))
        place = group.to(tl.int64) * width + column
        tl.store(channels_at + place, tl.sum(of_weight, 0, keep_dims=True), column < width)
        tl.store(channels_at + groups.to(tl.int64) * width + place, tl.sum(of_bias, 0, keep_dims=True), column < width)


def _constants(function: str) -> dict[str, Any]:
    return dict(zip(("numerator", "denominator", "bound"), RATIONAL[function], strict=True))


class TritonDynamic(Dynamic):
    """``Dynamic`` by these kernels, on float32, float16 and bfloat16; differentiated twice it is ``Dynamic``."""

    @staticmethod
    def forward(
        ctx: Any, function: str, x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor
    ) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x, alpha, shift, weight, bias)
        x, width = x.contiguous(), x.shape[-1]
        rows = x.numel() // max(1, width)
        y = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
        grid = (triton.cdiv(rows, _ROWS), triton.cdiv(width, _COLUMNS))
        if x.numel():
            _forward[grid](
                x, alpha, alpha if shift is None else shift, weight.contiguous(), bias.contiguous(), y, rows, width,
                shift is not None, **_constants(function), ROWS=_ROWS, COLUMNS=_COLUMNS,
            )  # fmt: skip
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, shift, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled() or not x.numel():
            return Dynamic.backward(ctx, g)
        needed = ctx.needs_input_grad[1:]
        parameters, width = any(needed[1:]), x.shape[-1]
        flat = x.contiguous()
        rows = flat.numel() // width
        grid = (triton.cdiv(rows, _ROWS * _LOADED), triton.cdiv(width, _COLUMNS))
        dx = torch.empty_like(flat)
        scalars = torch.empty((2, *grid) if parameters else 1, device=x.device)
        channels = torch.empty((2, grid[0], width) if parameters else 1, device=x.device)
        _backward[grid](
            flat, alpha, alpha if shift is None else shift, weight.contiguous(), g.contiguous(), dx, scalars, channels,
            rows, width, ctx.function == "tanh", shift is not None, parameters, **_constants(ctx.function),
            ROWS=_ROWS, COLUMNS=_COLUMNS, TILES=_LOADED,
        )  # fmt: skip
        if not parameters:
            return None, dx, None, None, None, None
        of_alpha, of_shift = scalars.sum((1, 2))
        of_weight, of_bias = channels.sum(1)
        found = (dx, of_alpha, of_shift, of_weight, of_bias)
        return None, *(
            one.reshape(tensor.shape).to(tensor.dtype) if need else None
            for one, tensor, need in zip(found, (x, alpha, shift, weight, bias), needed, strict=True)
        )
