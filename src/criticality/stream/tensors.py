"""Questions about tensors that nothing of a recording is needed for."""

from __future__ import annotations

from collections.abc import Mapping
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


def contracted_axes(function: str, weight: Tensor) -> tuple[int, ...]:
    """Axes of a weight, as a parameter that is laid out row by row, that a product sums over; empty for what is no product."""
    if weight.ndim < 2:
        return ()
    if function == "linear":
        return (-1,)
    if function.startswith("conv_transpose"):
        return (0, *range(2, weight.ndim))
    if function.startswith("conv"):
        return tuple(range(1, weight.ndim))
    if function in _MATRIX_PRODUCTS:
        transposed = weight.stride(-2) == 1 and weight.stride(-1) != 1
        return (-1,) if transposed else (-2,)
    return ()


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
