"""Run a model for its residual stream only, and leave no trace on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from criticality.measurement.points import ResidualPoint

Visit = Callable[[int, Tensor], Tensor | None]
"""Called with the index of a point and its tensor; what it returns takes the tensor's place in the model."""


class _LastPoint(Exception):  # noqa: N818  (a signal, not an error)
    """Ends the forward pass: nothing after the last point of the stream is wanted."""


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Freeze parameters and switch to evaluation inside; restore flags, modes and random states after, also on error.

    Gradients of activations are recorded inside whatever the caller switched off.  Random states are those of the CPU
    and of every device the model is on.
    """
    frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
        try:
            for parameter, _ in frozen:
                parameter.requires_grad_(False)
            model.eval()
            yield
        finally:
            for parameter, flag in frozen:
                parameter.requires_grad_(flag)
            for module, mode in modes:
                module.training = mode


@contextmanager
def placed(
    model: nn.Module, inputs: Any, device: torch.device | str | None, dtype: torch.dtype | None
) -> Iterator[Any]:
    """Move a model to a device and dtype, and back by putting its own tensors back; yields the inputs, moved too."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    home = (first.device, first.dtype) if first is not None else (torch.device("cpu"), torch.get_default_dtype())
    target = (torch.device(device) if device is not None else home[0], dtype or home[1])
    ready = to_device(inputs, *target)
    if target == home:
        yield ready
        return
    parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(module, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()]
    try:
        model.to(*target)
        yield ready
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


def call_model(model: nn.Module, inputs: Any) -> Any:
    """``model`` of a tensor, a tuple of positional or a dict of keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def run_stream(model: nn.Module, inputs: Any, points: list[ResidualPoint], visit: Visit) -> None:
    """Run ``model(inputs)`` up to the last point, calling ``visit`` at every point in turn.

    ``inputs`` is a tensor, a tuple of positional arguments or a dict of keyword arguments.

    Raises:
        ValueError: a point is not reached, is reached out of order or twice, is not a floating tensor, changes
            shape along the stream, or is not finite.
    """
    seen = 0
    shape: torch.Size | None = None

    def at(index: int, value: Any) -> Any:
        nonlocal seen, shape
        packed = isinstance(value, (tuple, list))
        tensor = value[0] if packed and len(value) else value
        point = points[index]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise ValueError(f"point '{point}' must be a floating tensor, got {type(tensor).__name__}")
        if index != seen:
            raise ValueError(f"point '{point}' must be reached once, as number {index} of the stream, not as {seen}")
        shape = tensor.shape if shape is None else shape
        if tensor.shape != shape:
            raise ValueError(
                f"point '{point}' must have the shape {tuple(shape)} of the first point, got {tuple(tensor.shape)}:"
                " it is not on the same residual stream"
            )
        if not bool(torch.isfinite(tensor.detach()).all()):
            raise ValueError(f"point '{point}' must be finite, but the model returns nan or inf there")
        replaced = visit(index, tensor)
        seen += 1
        if seen == len(points):
            raise _LastPoint
        if replaced is None:
            return None
        return type(value)((replaced, *value[1:])) if packed else replaced

    def before(index: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not args:
                raise ValueError(f"point '{points[index]}' must get its tensor as first positional argument")
            replaced = at(index, args[0])
            return None if replaced is None else ((replaced, *args[1:]), kwargs)

        return hook

    def after(index: int) -> Callable[..., Any]:
        return lambda module, args, output: at(index, output)

    with ExitStack() as stack:
        for index, point in enumerate(points):
            if point.side == "input":
                handle = point.module.register_forward_pre_hook(before(index), with_kwargs=True)
            else:
                handle = point.module.register_forward_hook(after(index))
            stack.callback(handle.remove)
        try:
            call_model(model, inputs)
        except _LastPoint:
            return
    raise ValueError(f"point '{points[seen]}' must be reached by the forward pass, and is not")


def to_device(inputs: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move inputs; floating tensors also take ``dtype``."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, dtype if inputs.is_floating_point() else None)
    if isinstance(inputs, dict):
        return {key: to_device(value, device, dtype) for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(to_device(value, device, dtype) for value in inputs)
    return inputs
