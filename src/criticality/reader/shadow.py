"""Tensors of which only the shape is known: a model runs on them without computing anything, and autograd sees it run."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from criticality.errors import UndescribedError


class Layout(NamedTuple):
    """All that is known of a shadow."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> Layout:
        if isinstance(tensor, Shadow):
            return tensor.known
        return Layout(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype)

    def meta(self) -> Tensor:
        """A tensor of this layout on the meta device."""
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        memory = torch.empty(self.offset + max(0, reach) + 1, dtype=self.dtype, device="meta")
        return memory.as_strided(self.shape, self.strides, self.offset)


class _Given(NamedTuple):
    """In an outcome: the tensor of that number among those that the call was given."""

    number: int


class Shadow(Tensor):
    """Claims a shape, a dtype and an ordinary device, and has no numbers; whatever is computed with it is a shadow, too.

    Raises:
        UndescribedError: an operation asks for its numbers.
    """

    known: Layout

    @staticmethod
    def __new__(cls, layout: Layout, device: torch.device) -> Shadow:
        shadow: Shadow = Tensor._make_wrapper_subclass(
            cls,
            layout.shape,
            strides=layout.strides,
            storage_offset=layout.offset,
            dtype=layout.dtype,
            device=device,
            requires_grad=False,
        )
        shadow.known = layout
        return shadow

    def __init__(self, *_: Any) -> None:
        super().__init__()

    @classmethod
    def of(cls, tensor: Tensor) -> Shadow:
        """The shadow of a tensor."""
        return cls(Layout.of(tensor), tensor.device)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Shadow(shape={tuple(self.shape)}, dtype={self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        if torch.Tag.inplace_view in func.tags:
            with torch._C._DisableTorchDispatch():
                func(*args, **kwargs)
            args[0].known = Layout(tuple(args[0].shape), args[0].stride(), args[0].storage_offset(), args[0].dtype)
            return args[0]
        key: list[Hashable] = [func, torch.get_default_dtype()]
        tensors: list[Tensor] = []
        _read((args, kwargs), key, tensors)
        call = tuple(key)
        if call not in _OUTCOMES:
            if len(_OUTCOMES) >= _MOST_OUTCOMES:
                _OUTCOMES.clear()
            _OUTCOMES[call] = _outcome(func, args, kwargs)
        device = next(tensor.device for tensor in tensors if isinstance(tensor, cls))
        return _made(_OUTCOMES[call], tensors, device)


_OUTCOMES: dict[Hashable, Any] = {}
"""What came out of calls: layouts, and tensors that were given. Layers that are alike make the same calls."""

_MOST_OUTCOMES = 4096


def _read(value: Any, key: list[Hashable], tensors: list[Tensor]) -> None:
    """What the outcome of a call depends on, its tensors in order."""
    if isinstance(value, Tensor):
        key.append(Layout.of(value))
        tensors.append(value)
    elif isinstance(value, (tuple, list)):
        key.append((tuple, len(value)))
        for entry in value:
            _read(entry, key, tensors)
    elif isinstance(value, dict):
        key.append((dict, *value))
        for entry in value.values():
            _read(entry, key, tensors)
    else:
        key.append((type(value), value))  # 2 and 2.0 are equal, and give results of other dtypes


def _outcome(func: Any, args: Any, kwargs: Any) -> Any:
    """Run a call on the meta device."""
    name = func.overloadpacket.__name__
    if name in _READING:
        raise UndescribedError(
            f"the exact theory reads a network without its numbers, and {name} asks for those of a value of shape"
            f" {tuple(args[0].shape)}"
        )
    metas: list[Tensor] = []

    def inside(value: Any) -> Any:
        if isinstance(value, Tensor):
            metas.append(Layout.of(value).meta())
            return metas[-1]
        return tuple(map(inside, value)) if isinstance(value, (tuple, list)) else value

    def outside(value: Any) -> Any:
        if isinstance(value, Tensor):
            same = [number for number, meta in enumerate(metas) if meta is value]
            return _Given(same[0]) if same else Layout.of(value)
        return type(value)(map(outside, value)) if isinstance(value, (tuple, list)) else value

    placed = {key: "meta" if key == "device" and value is not None else value for key, value in kwargs.items()}
    return outside(func(*map(inside, args), **{key: inside(value) for key, value in placed.items()}))


def _made(outcome: Any, tensors: list[Tensor], device: torch.device) -> Any:
    """The tensors of an outcome."""
    if isinstance(outcome, Layout):
        return Shadow(outcome, device)
    if isinstance(outcome, _Given):
        return tensors[outcome.number]
    if isinstance(outcome, (tuple, list)):
        return type(outcome)(_made(entry, tensors, device) for entry in outcome)
    return outcome


_READING = frozenset(("_local_scalar_dense", "nonzero", "equal", "masked_select", "unique", "_unique2", "is_nonzero"))
