"""Calls that take a random weight and read none of its entries: views, copies, metadata; and those that would change them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from criticality.weightless.law import Law
from criticality.weightless.products import lookup
from criticality.weightless.rules import getters, named, rule


@rule(
    *named("t", "transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "adjoint"),
    *named("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel", "view_as", "reshape_as"),
    *named("narrow", "select", "chunk", "split", "tensor_split", "split_with_sizes", "unbind", "hsplit", "vsplit"),
    *named("expand", "expand_as", "diagonal", "as_strided"),
    *getters("T", "mT"),
)
def view(run: Any, func: Any, first: Any, *args: Any, **kwargs: Any) -> Any:
    """A view of a random weight stands for the same part of the same weight."""
    found = run.find(first)
    if not found:
        return run.described(func, first, *args, **kwargs)
    shown = func(found[1], *run.read(args), **run.read(kwargs))
    parts = shown if isinstance(shown, (tuple, list)) else (shown,)
    return shown if all(map(run.find, parts)) else NotImplemented


@rule(Tensor.__getitem__)
def item(run: Any, func: Any, first: Any, index: Any) -> Any:
    """Slices are views; one vector of integers is a look-up."""
    if not run.find(first) or any(map(run.find, index if isinstance(index, tuple) else (index,))):
        return NotImplemented
    parts = [_plain(part) for part in (index if isinstance(index, tuple) else (index,))]
    if not any(isinstance(part, (Tensor, list)) for part in parts):
        return view(run, func, first, tuple(parts))
    whole = isinstance(parts[0], Tensor) and all(part == slice(None) or part is Ellipsis for part in parts[1:])
    if not whole or parts[0].dtype not in (torch.int64, torch.int32) or first.ndim < 2:
        return NotImplemented
    return lookup(run, first, parts[0].long())


def _plain(part: Any) -> Any:
    """An index that is one integer in a tensor, as an integer: the result is a view."""
    return int(part) if isinstance(part, Tensor) and part.ndim == 0 and part.dtype != torch.bool else part


@rule(*named("index_select"))
def index_select(run: Any, func: Any, input: Any, dim: int, index: Tensor) -> Any:
    if not run.find(input) or input.ndim < 2:
        return NotImplemented
    return lookup(run, run.find(input)[1].movedim(dim, 0), index).movedim(0, dim)


@rule(
    *named(
        "detach",
        "contiguous",
        "clone",
        "to",
        "float",
        "double",
        "half",
        "bfloat16",
        "type",
        "type_as",
        "cuda",
        "cpu",
        "alias",
    ),
    *named("requires_grad_", "positive"),
    *getters("data"),
)
def copy(run: Any, func: Any, first: Any, *args: Any, **kwargs: Any) -> Any:
    """A copy of a random weight, of whatever precision, stands for the weight: a product has the precision of the other factor."""
    found = run.find(first)
    return found[1] if found else run.described(func, first, *args, **kwargs)


@rule(*named("untyped_storage"))
def storage(run: Any, func: Any, first: Any) -> Any:
    """That of the numbers, where there are some: sharded models free those that they gathered."""
    return NotImplemented if isinstance(getattr(first, "law", None), Law) else func(first)


@rule(*named("mul_", "div_", "__imul__", "__itruediv__"))
def scaled(run: Any, func: Any, first: Any, factor: Any) -> Any:
    """A whole weight that is scaled by a number before it is used, as some models do once for evaluation."""
    found = run.find(first)
    if not found or not isinstance(factor, (int, float)) or found[1].numel() != found[0].weight.numel():
        return run.with_drawn(func, first, factor)
    if not found[0].scale(factor if func in _TIMES else 1 / factor):
        return NotImplemented
    return first


_TIMES = named("mul_", "__imul__")


@rule(*named("stride", "storage_offset", "is_contiguous"))
def place(run: Any, func: Any, first: Any, *args: Any, **kwargs: Any) -> Any:
    """How the entries of a weight lie in memory: as those of its view on ``meta``."""
    found = run.find(first)
    return func(found[1] if found else first, *args, **kwargs)


@rule(
    *named(
        "size",
        "dim",
        "ndimension",
        "numel",
        "nelement",
        "element_size",
        "__len__",
    ),
    *named(
        "is_floating_point",
        "is_complex",
        "is_signed",
        "is_nonzero",
        "get_device",
        "is_same_size",
        "is_inference",
        "is_conj",
    ),
    *named("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
    *named("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "result_type", "can_cast"),
    *getters(
        "shape", "dtype", "device", "ndim", "layout", "is_cuda", "is_cpu", "is_meta", "is_leaf", "requires_grad", "grad"
    ),
    *getters("is_mps", "is_xpu", "is_sparse", "is_quantized", "is_nested", "grad_fn", "itemsize", "nbytes", "name"),
)
def metadata(run: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
    """What a tensor is, without its entries."""
    return run.described(func, *args, **kwargs)
