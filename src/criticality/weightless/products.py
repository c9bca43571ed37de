"""Products with a random weight: linear maps, matrix products, patches, experts, look-ups."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from criticality.weightless.roots import Operand
from criticality.weightless.rules import named, rule
from criticality.weightless.span import Span


class Product(torch.autograd.Function):
    """``X (N, n)`` times a random weight, ``(N, m)``, and ``b (m,)``, held fixed: neither the weight nor ``X`` is saved."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, operand: Operand, dtype: torch.dtype, span: Span | None, bias: Tensor | None
    ) -> Tensor:
        ctx.operand, ctx.dtype, ctx.result = operand, rows.dtype, dtype
        operand.use()
        found = _product(rows, operand, dtype, span=span)
        if bias is not None:
            return found + bias if found._is_view() else found.add_(bias)
        return found.clone() if found._is_view() else found  # models write to it in place, to which a view would object

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        return _product(gradient, ctx.operand, ctx.dtype, back=True), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return _product(tangent, ctx.operand, ctx.result)


def _product(
    rows: Tensor, operand: Operand, dtype: torch.dtype, *, back: bool = False, span: Span | None = None
) -> Tensor:
    with torch._C.DisableTorchFunction(), torch.autocast(rows.device.type, enabled=False):
        return operand.times(rows.to(operand.root.like.dtype), back=back, span=span).to(dtype)


def contract(
    run: Any,
    x: Tensor,
    weight: Tensor,
    x_axes: tuple[int, ...],
    weight_axes: tuple[int, ...],
    bias: Tensor | None = None,
) -> Tensor:
    """Sum over axes of ``x`` and as many of a random weight (``torch.tensordot``): the free axes of ``x``, then
    those of the weight.  ``bias`` is added along the only free axis of the weight.
    """
    root, view = run.find(weight)
    x_axes = tuple(axis % x.ndim for axis in x_axes)
    pairs = dict(zip((axis % view.ndim for axis in weight_axes), x_axes, strict=True))
    if any(x.shape[axis] != view.shape[summed] for summed, axis in pairs.items()):
        torch.tensordot(
            x, run.real(weight), (list(x_axes), list(weight_axes))
        )  # says what is wrong, as a real weight does
    operand = Operand(root, view, tuple(pairs))
    kept = [axis for axis in range(x.ndim) if axis not in x_axes]
    rows = x.permute(*kept, *(pairs[axis] for axis in operand.order(operand.summed)))
    rows = rows.flatten(len(kept)) if len(pairs) > 1 else rows
    flat = rows.reshape(-1, rows.shape[-1])
    fixed = None if bias is None or bias.requires_grad else run.real(bias).to(_result_type(x))
    found = Product.apply(flat, operand, _result_type(x), run.span(rows, operand), fixed)
    found = found if fixed is not None else _plus(run, found, bias)
    order = operand.order(operand.free)
    found = found.reshape(*rows.shape[:-1], *(view.shape[axis] for axis in order))
    return found.permute(*range(len(kept)), *(len(kept) + order.index(axis) for axis in operand.free))


def _result_type(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _plus(run: Any, found: Tensor, bias: Tensor | None) -> Tensor:
    return found if bias is None else found + run.real(bias).to(found.dtype)


@rule(functional.linear)
def linear(run: Any, func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if run.find(input) or not run.find(weight):
        return NotImplemented
    return contract(run, input, weight, (-1,), (-1,), bias)


@rule(*named("matmul", "mm", "__matmul__", "mv"))
def matmul(run: Any, func: Any, input: Tensor, other: Tensor) -> Any:
    first, second = run.find(input), run.find(other)
    if first and second:
        return NotImplemented
    if second and other.ndim == 2:
        return contract(run, input, other, (-1,), (0,))
    if first and input.ndim == 2:
        found = contract(run, other, input, (-min(other.ndim, 2),), (1,))
        return found if other.ndim == 1 else found.mT
    if input.ndim == other.ndim == 3:
        return bmm(run, func, input, other)
    return NotImplemented


@rule(Tensor.__rmatmul__)
def rmatmul(run: Any, func: Any, input: Tensor, other: Tensor) -> Any:
    return matmul(run, func, other, input)


@rule(*named("addmm"))
def addmm(run: Any, func: Any, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    found = matmul(run, func, mat1, mat2)
    return found if found is NotImplemented else alpha * found + beta * run.real(input)


@rule(*named("bmm"))
def bmm(run: Any, func: Any, input: Tensor, mat2: Tensor) -> Any:
    if bool(run.find(input)) == bool(run.find(mat2)) or len(input) != len(mat2):
        return NotImplemented
    with run:
        return torch.stack([one @ other for one, other in zip(_pieces(run, input), _pieces(run, mat2), strict=True)])


def _pieces(run: Any, stack: Tensor) -> tuple[Tensor, ...]:
    found = run.find(stack)
    return (found[1] if found else stack).unbind(0)


@rule(
    *(
        getattr(where, name)
        for where, name in ((functional, "grouped_mm"), (torch, "_grouped_mm"))
        if hasattr(where, name)
    )
)
def grouped_mm(run: Any, func: Any, mat_a: Tensor, mat_b: Tensor, *, offs: Tensor | None = None, **options: Any) -> Any:
    """``mat_a (rows, n)`` in groups of rows that end at ``offs``, each with its own ``mat_b[group] (n, m)``."""
    if run.find(mat_a) or offs is None or mat_a.ndim != 2 or mat_b.ndim != 3 or options.get("bias") is not None:
        return NotImplemented
    ends = offs.tolist()
    groups = zip([0, *ends], ends, _pieces(run, mat_b), strict=False)
    found = [contract(run, mat_a[start:end], one, (-1,), (0,)) for start, end, one in groups if end > start]
    rest = mat_a.new_zeros(len(mat_a) - ends[-1], mat_b.shape[-1])
    return torch.cat([*found, rest]).to(options.get("out_dtype") or mat_a.dtype)


@rule(functional.conv1d, functional.conv2d, functional.conv3d)
def convolution(
    run: Any,
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Kernels that do not overlap (patches, 1x1) are linear maps of patches."""
    kernel = tuple(weight.shape[2:])
    stride = (stride,) * len(kernel) if isinstance(stride, int) else tuple(stride)
    stride = stride * len(kernel) if len(stride) == 1 else stride
    pads = (
        padding not in ("valid", "same")
        if isinstance(padding, str)
        else any([padding] if isinstance(padding, int) else padding)
    )
    points = all(size == 1 for size in kernel)
    if run.find(input) or not run.find(weight) or groups != 1 or pads or input.ndim != weight.ndim:
        return NotImplemented
    if not points and (
        stride != kernel or padding == "same" or dilation not in (1, (1,) * len(kernel), [1] * len(kernel))
    ):
        return NotImplemented
    spatial = range(2, input.ndim)
    if points:
        for axis, step in zip(spatial, stride, strict=True):
            input = input[(slice(None),) * axis + (slice(None, None, step),)]
        found = contract(run, input, run.find(weight)[1].flatten(1), (1,), (1,))
    else:
        for axis, size in zip(spatial, kernel, strict=True):
            input = input.narrow(axis, 0, input.shape[axis] // size * size)
        for axis, size in zip(reversed(spatial), reversed(kernel), strict=True):
            input = input.unflatten(axis, (-1, size))
        found = contract(run, input, weight, (1, *range(3, input.ndim, 2)), tuple(range(1, weight.ndim)))
    return _plus(run, found, bias).movedim(-1, 1)


@rule(torch.einsum)
def einsum(run: Any, func: Any, *operands: Any) -> Any:
    """Two factors, each index of the weight either summed over or in the result: a linear map."""
    equation, *factors = operands
    factors = list(factors[0]) if len(factors) == 1 and isinstance(factors[0], (list, tuple)) else factors
    if not isinstance(equation, str) or len(factors) != 2 or "." in equation or "->" not in equation:
        return NotImplemented
    terms, result = equation.replace(" ", "").split("->")
    names = terms.split(",")
    if run.find(factors[0]):
        names, factors = names[::-1], factors[::-1]
    x, weight = names
    summed = [name for name in weight if name in x]
    if run.find(factors[0]) or not summed or any(len(set(term)) < len(term) for term in (x, weight, result)):
        return NotImplemented
    kept = [name for name in x + weight if name not in summed]
    if sorted(kept) != sorted(result):
        return NotImplemented
    found = contract(run, factors[0], factors[1], tuple(map(x.index, summed)), tuple(map(weight.index, summed)))
    return found.permute(*map(kept.index, result))


@rule(functional.embedding)
def embedding(
    run: Any, func: Any, input: Tensor, weight: Tensor, padding_idx: int | None = None, *options: Any, **named: Any
) -> Any:
    """Only the rows that are used; the row at ``padding_idx`` is zero, as ``nn.Embedding`` initializes it."""
    renormalizes = (options and options[0] is not None) or named.get("max_norm") is not None
    if run.find(input) or not run.find(weight) or renormalizes:
        return NotImplemented
    found = lookup(run, weight, input)
    return found if padding_idx is None else found.masked_fill((input == padding_idx % len(weight))[..., None], 0.0)


@rule(torch.embedding)
def raw_embedding(
    run: Any, func: Any, weight: Tensor, indices: Tensor, padding_idx: int = -1, *options: Any, **named: Any
) -> Any:
    return embedding(run, func, indices, weight, None if padding_idx < 0 else padding_idx)


def lookup(run: Any, weight: Tensor, indices: Tensor) -> Tensor:
    """``weight[indices]`` of a random weight, ``(*indices.shape, *weight.shape[1:])``."""
    root, view = run.find(weight)
    operand = Operand(root, view, (0,))
    rows = operand.rows(indices.flatten() % len(view))
    order = operand.order(operand.free)
    rows = rows.reshape(*indices.shape, *(view.shape[axis] for axis in order))
    return rows.permute(*range(indices.ndim), *(indices.ndim + order.index(axis) for axis in operand.free)).to(
        root.dtype
    )
