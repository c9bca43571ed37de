"""Inputs in the forms in which people have them, made ready to be differentiated."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from criticality.errors import RAISED, CriticalityError, InputsError, model_failed, raised

ATOMS = frozenset((int, float, bool, str, type(None), slice, torch.dtype, torch.device, torch.Size))
"""Arguments that hold no tensor."""


def mapped(change: Callable[[Any], Any], value: Any, kind: Any = Tensor) -> Any:
    """The same nesting of tuples, lists, mappings and dataclasses with everything of a kind changed.

    What holds nothing that changes is the very same object; a mapping of which something does becomes a dict.
    """
    if isinstance(value, kind):
        return change(value)
    if type(value) in ATOMS:
        return value
    if isinstance(value, (tuple, list)):
        parts = [mapped(change, entry, kind) for entry in value]
        if all(map(is_, parts, value)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, (dict, Mapping)):
        entries = {key: mapped(change, entry, kind) for key, entry in value.items()}
        return entries if any(entries[key] is not value[key] for key in value) else value
    if is_dataclass(value) and not isinstance(value, type):
        held = {name.name: mapped(change, getattr(value, name.name, None), kind) for name in fields(value)}
        return _with(value, {name: part for name, part in held.items() if part is not getattr(value, name, None)})
    return value


def _with(value: Any, changed: dict[str, Any]) -> Any:
    new = copy(value) if changed else value
    for name, part in changed.items():
        object.__setattr__(new, name, part)
    return new


def as_tensors(inputs: Any) -> Any:
    """The same inputs with arrays, and lists of rows of numbers as tokenizers give them, as tensors; numbers with a point take
    torch's default dtype.
    """
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "biuf":
        tensor = torch.as_tensor(np.ascontiguousarray(inputs), device="cpu")
        return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor
    if isinstance(inputs, list) and _is_table(inputs):
        return torch.tensor(inputs, device="cpu")
    if isinstance(inputs, Mapping):
        entries = {key: as_tensors(value) for key, value in inputs.items()}
        return entries if any(entries[key] is not inputs[key] for key in entries) else inputs
    if type(inputs) is tuple:
        parts = tuple(as_tensors(value) for value in inputs)
        return parts if any(a is not b for a, b in zip(parts, inputs, strict=True)) else inputs
    return inputs


def _is_table(value: list[Any]) -> bool:
    """Whether it is rows of numbers, all of one length, at any depth below the first."""
    if not value or not all(isinstance(row, list) and row for row in value) or len({len(row) for row in value}) > 1:
        return False
    if all(isinstance(entry, (int, float)) for row in value for entry in row):
        return True
    return all(_is_table(row) for row in value) and len({len(row[0]) for row in value}) == 1


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments: a mapping or a dataclass is keywords, a tuple is positions, all else is one argument.

    A list of tensors of one shape, such as a batch of images, is stacked.
    """
    inputs = as_tensors(inputs)
    if isinstance(inputs, Mapping):
        return (), {str(key): value for key, value in inputs.items()}
    if is_dataclass(inputs) and not isinstance(inputs, type):
        values = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
        return (), {name: value for name, value in values.items() if value is not None}
    if isinstance(inputs, tuple):
        return inputs, {}
    tensors = isinstance(inputs, list) and all(isinstance(entry, Tensor) for entry in inputs)
    if tensors and len({entry.shape for entry in inputs}) == 1:
        return (torch.stack(inputs),), {}
    return (inputs,), {}


def require_values(tensor: Tensor) -> None:
    """Refuse an input that no model can be run on for its numbers.

    Raises:
        InputsError: one on the meta device, of another layout than strided, or of complex numbers.
    """
    if tensor.is_meta:
        raise InputsError(
            f"inputs must hold numbers, and a tensor of shape {tuple(tensor.shape)} is on the meta device"
        )
    if tensor.is_nested:
        raise InputsError("inputs must be tensors of one shape, and are nested: pad them, and give a mask")
    if tensor.layout != torch.strided and tensor.is_floating_point():
        raise InputsError(f"inputs must be dense tensors, and are of {tensor.layout}: give x.to_dense()")


def differentiable(inputs: Any) -> tuple[Any, list[Tensor], list[Tensor]]:
    """Copies of inputs whose floating tensors are sources; the sources, and the integer tensors.

    Raises:
        InputsError: no tensor at all, or none with entries; one beside others may be empty, such as series of no time features.
    """
    sources: list[Tensor] = []
    tokens: list[Tensor] = []
    empty: list[Tensor] = []

    def ready(tensor: Tensor) -> Tensor:
        require_values(tensor)
        copy = tensor.detach().clone()
        if tensor.numel() == 0:
            empty.append(copy)
        elif tensor.is_floating_point() and tensor.ndim > 0:
            sources.append(copy.requires_grad_())
            return copy.clone()  # the model may write to it
        elif tensor.dtype in (torch.int64, torch.int32):
            tokens.append(copy)
        return copy

    args, kwargs = arguments(inputs)
    with torch.inference_mode(False), torch.enable_grad():
        copies = mapped(ready, args), mapped(ready, kwargs)
    if not sources and not tokens and empty:
        raise InputsError(f"inputs must have entries, and a tensor of shape {tuple(empty[0].shape)} has none")
    if not sources and not tokens:
        kind = f"a tensor of {inputs.dtype}" if isinstance(inputs, Tensor) else f"of type {type(inputs).__name__}"
        raise InputsError(f"inputs must hold a floating tensor or integer token ids, and are {kind}")
    return copies, sources, tokens


def _takes(model: nn.Module, name: str) -> bool:
    try:
        return name in inspect.signature(model.forward).parameters
    except ValueError:  # a method of TorchScript has none
        return False


def call(model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]], where: Callable[[], str] = str) -> Any:
    """``model(*args, **kwargs)``; ``where`` says in which module it failed.

    Raises:
        ModelFailedError: the model's own code raised.
    """
    args, kwargs = inputs
    if "use_cache" not in kwargs and _takes(model, "use_cache"):
        kwargs = {**kwargs, "use_cache": False}  # a cache ties all layers together, and is of no use for one pass
    try:
        return model(*args, **kwargs)
    except CriticalityError:
        raise
    except RAISED as error:
        if type(error).__module__.startswith("criticality."):  # a signal of who watches the pass
            raise
        place = f" in {where()!r}" if where() else ""
        alone = "more than 1 value per channel" in str(error)
        advice = (
            "; a batch norm that has seen no data normalizes by the batch: give two samples or more" if alone else ""
        )
        raise model_failed(
            f"model {type(model).__name__} must run on these inputs, and its own code raised{place}"
            f" {raised(error)}{advice}",
            error,
        ) from error
