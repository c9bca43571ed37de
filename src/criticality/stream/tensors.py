"""Questions about tensors that nothing of a recording is needed for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from criticality.stream.inputs import ATOMS


def tensors_in(value: Any) -> list[Tensor]:
    """Tensors of nested tuples, lists, mappings and dataclasses, in order."""
    found: list[Tensor] = []
    _collect(value, found)
    return found


def memory_of(tensor: Tensor) -> int | None:
    """Which memory a tensor is in; ``None`` where it has none of its own, as inside ``vmap``. No mode sees the question."""
    with torch._C.DisableTorchFunction():
        try:
            return tensor.untyped_storage()._cdata
        except NotImplementedError:
            return None


def _collect(value: Any, found: list[Tensor]) -> None:
    kind = type(value)
    if isinstance(value, Tensor):
        found.append(value)
    elif kind in ATOMS:
        return
    elif isinstance(value, (tuple, list)):
        for entry in value:
            _collect(entry, found)
    elif kind is dict or isinstance(value, Mapping):
        for entry in value.values():
            _collect(entry, found)
    elif hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        for name in value.__dataclass_fields__:
            _collect(getattr(value, name, None), found)


def contracted_axes(
    function: str, weight: Tensor, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> tuple[int, ...]:
    """Axes of a weight, as a parameter that is laid out row by row, that a product sums over; empty for what is no product.

    ``args`` and ``kwargs`` of the call, where the function's name alone does not say (``einsum``, ``tensordot``).
    """
    if weight.ndim < 2:
        return ()
    if function == "linear":
        return (-1,)
    if function == "bilinear":
        return (1, 2) if weight.ndim == 3 else ()
    if function.startswith("conv_transpose"):
        return (0, *range(2, weight.ndim))
    if function.startswith("conv"):
        return tuple(range(1, weight.ndim))
    if function in _MATRIX_PRODUCTS:
        transposed = weight.stride(-2) == 1 and weight.stride(-1) != 1
        return (-1,) if transposed else (-2,)
    if function in _BY_ARGUMENTS:
        return _in_memory(weight, _BY_ARGUMENTS[function](weight, *args, **(kwargs or {})))
    return ()


def _in_memory(weight: Tensor, axes: Sequence[int]) -> tuple[int, ...]:
    """The places, from the last, that axes of a weight have in the order of memory."""
    order = sorted(range(weight.ndim), key=lambda axis: -weight.stride()[axis])
    return tuple(sorted(order.index(axis % weight.ndim) - weight.ndim for axis in axes))


def _summed_by_einsum(weight: Tensor, equation: str, factors: Sequence[Tensor], **_: Any) -> list[int]:
    """Axes of a weight whose letters are not in the result; of a term with an ellipsis none."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    term = next(t for t, factor in zip(terms.split(","), factors, strict=True) if factor is weight)
    if "." in term:
        return []
    kept = result if arrow else [letter for letter in terms if terms.count(letter) == 1]
    return [axis for axis, letter in enumerate(term) if letter not in kept]


def _summed_by_tensordot(weight: Tensor, a: Tensor, b: Tensor, of_a: list[int], of_b: list[int]) -> list[int]:
    return of_a if weight is a else of_b


_BY_ARGUMENTS: dict[str, Callable[..., Sequence[int]]] = {
    "einsum": _summed_by_einsum,
    "tensordot": _summed_by_tensordot,
}
"""Of products whose arguments say which axes of a weight they sum over: those axes; called as ``torch._VF`` is by torch."""

_MATRIX_PRODUCTS = frozenset(("matmul", "__matmul__", "mm", "addmm", "bmm", "baddbmm", "grouped_mm", "_grouped_mm"))


def node_of(tensor: Tensor) -> Node | None:
    """The node of a tensor that depends on the sources; of a source the node that its gradient goes to.

    ``None`` inside a function of somebody's own, where nothing is recorded.
    """
    if tensor.grad_fn is not None:
        return tensor.grad_fn
    if not tensor.requires_grad or not torch.is_grad_enabled():
        return None
    return torch.autograd.graph.get_gradient_edge(tensor).node


def node_name(node: Node) -> str:
    """Of a node of autograd; a function of the user's may keep something of its own under ``name``."""
    return str(type(node).name(node))


def address_of(tensor: Tensor) -> int:
    """Of its first entry; 0 where it has none."""
    try:
        return tensor.data_ptr()
    except RuntimeError:  # as of fake tensors
        return 0


def nodes_in(value: Any) -> tuple[Node, ...]:
    return tuple([node for tensor in tensors_in(value) if (node := node_of(tensor)) is not None])


def same_index(index: Tensor, token: Tensor) -> bool:
    if index is token:
        return True
    return (
        index.numel() == token.numel()
        and index.device == token.device
        and bool((index.flatten() == token.flatten()).all())
    )


_WRITING = frozenset(("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "batch_norm"))
"""Calls that write to a tensor, beside those whose name ends in ``_``."""


def writes(name: str) -> bool:
    """Whether a call of that name writes to what it is given."""
    return name in _WRITING or (name.endswith("_") and not name.endswith("__"))


def written_to(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Tensors that a call writes to: the first that it is given, the statistics of a batch norm, those of ``out``."""
    found = tensors_in(kwargs["out"]) if kwargs.get("out") is not None else []
    if args and writes(name):
        found += tensors_in((args, kwargs) if name == "batch_norm" else args[0])
    return found
