"""Tensors of which only the shape is known: a model runs on them without computing anything, and autograd sees it run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from criticality.errors import UndescribedError


class Shadow(Tensor):
    """Claims a shape, a dtype and an ordinary device, and has no numbers; whatever is computed with it is a shadow, too.

    Raises:
        UndescribedError: an operation asks for its numbers.
    """

    meta: Tensor

    @staticmethod
    def __new__(cls, meta: Tensor, device: torch.device) -> Shadow:
        shadow: Shadow = Tensor._make_wrapper_subclass(
            cls,
            meta.shape,
            strides=meta.stride(),
            storage_offset=int(meta.storage_offset()),
            dtype=meta.dtype,
            device=device,
            requires_grad=False,
        )
        shadow.meta = meta
        return shadow

    def __init__(self, *_: Any) -> None:
        super().__init__()

    @classmethod
    def of(cls, tensor: Tensor) -> Shadow:
        """The shadow of a tensor."""
        return cls(_meta(tensor), tensor.device)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Shadow(shape={tuple(self.shape)}, dtype={self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        name = func.overloadpacket.__name__
        if name in _READING:
            raise UndescribedError(
                f"the exact theory reads a network without its numbers, and {name} asks for those of a value of shape"
                f" {tuple(args[0].shape)}"
            )
        originals: dict[int, Tensor] = {}

        def meta(tensor: Tensor) -> Tensor:
            found = tensor.meta if isinstance(tensor, Shadow) else _meta(tensor)
            originals[id(found)] = tensor
            return found

        device = next(tensor.device for tensor in _flat(args, kwargs) if isinstance(tensor, Shadow))
        kwargs = {
            key: "meta" if key == "device" and value is not None else value for key, value in (kwargs or {}).items()
        }
        inside = tree_map_only(Tensor, meta, (args, kwargs))
        output = func(*inside[0], **inside[1])
        return tree_map_only(
            Tensor, lambda one: originals.get(id(one)) if id(one) in originals else cls(one, device), output
        )


def _meta(tensor: Tensor) -> Tensor:
    if isinstance(tensor, Shadow):
        return tensor.meta
    if tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _flat(args: Any, kwargs: Any) -> list[Any]:
    found: list[Any] = []
    for value in (*args, *(kwargs or {}).values()):
        found += value if isinstance(value, (tuple, list)) else [value]
    return found


_READING = frozenset(("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique", "_unique2", "is_nonzero"))
