"""Leave no trace on a model: parameters frozen, modes, devices and buffers put back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from criticality.devices import torch_device
from criticality.errors import CriticalityError, ModelFailedError, raised
from criticality.randomness import forked
from criticality.stream.inputs import as_tensors, mapped, require_values
from criticality.stream.sharded import reshard
from criticality.stream.tensors import tensors_in

_BUSY: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
"""Of models that are looked at: another thread that would look at one waits, as each changes it and puts back what was there."""

_AT_THE_END: ContextVar[ExitStack | None] = ContextVar("at_the_end", default=None)


@contextmanager
def at_the_end(restore: Callable[[], None], wait: bool = True) -> Iterator[None]:
    """Call ``restore`` when the ``untouched`` around this ends, after the backward pass; without one, or not to ``wait``, here."""
    ending = _AT_THE_END.get()
    if ending is not None and wait:
        ending.callback(restore)
        yield
        return
    try:
        yield
    finally:
        restore()


@contextmanager
def untouched(model: nn.Module, train: bool | None = False) -> Iterator[None]:
    """Freeze parameters and switch to evaluation inside; restore flags, modes, buffers and random states after, also on error.

    A batch norm with running statistics that has seen no data yet has none: it normalizes by those of the batch, as in the first
    step of a training.  With ``train`` the model is in training mode inside, with ``None`` in the mode that it is in.  Gradients of
    activations are recorded inside whatever the caller switched off.  What the model itself writes to in a forward pass that is
    watched inside stays until the end, as the backward pass needs it, and is then put back.  Random states are those of the CPU
    and of every device the model is on.
    """
    with _BUSY.setdefault(model, threading.RLock()):
        yield from _untouched(model, train)


def _untouched(model: nn.Module, train: bool | None) -> Iterator[None]:
    reshard(model)
    _check_weights(model)
    frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    fresh = fresh_batch_norms(model) if train is False else []
    statistics = [(buffer, buffer.detach().clone()) for module in fresh for buffer in module.buffers(recurse=False)]
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with forked(devices), torch.inference_mode(False), torch.enable_grad():
        ending = ExitStack()
        token = _AT_THE_END.set(ending)
        try:
            for parameter, _ in frozen:
                parameter.requires_grad_(False)
            if train is not None:
                _set_mode(model, train)
            for module in fresh:
                module.training = True
            yield
        finally:
            _AT_THE_END.reset(token)
            ending.close()
            reshard(model)
            for parameter, flag in frozen:
                parameter.requires_grad_(flag)
            for module, mode in modes:
                module.training = mode
            for module, held in buffers:
                module._buffers.update(held)
            for buffer, value in statistics:
                buffer.data.copy_(value)


def written_back(model: nn.Module, saved: dict[int, tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """What undoes what a model does to itself in a forward pass that begins now.

    Put back are parameters and buffers that it writes to, which come to be in ``saved`` with copies of what they were, and flags
    and numbers among its attributes; taken away are values of the pass that it keeps there, such as a cache.
    """
    before = [(module, _plain(module), _attributes(module)) for module in model.modules()]

    def restore() -> None:
        for tensor, value in saved.values():
            tensor.data.copy_(value)
        for module, plain, held in before:
            module.__dict__.update(plain)
            _forget_pass(module, held)

    return restore


def _plain(module: nn.Module) -> dict[str, Any]:
    """Attributes that say in which state a module is, such as whether it has rescaled its weights."""
    return {name: value for name, value in module.__dict__.items() if isinstance(value, (bool, int, float))}


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Attributes of a module's own; of lists and dictionaries what is in them now."""
    return {
        name: value.copy() if type(value) in (list, dict) else value
        for name, value in module.__dict__.items()
        if name not in _OF_EVERY_MODULE
    }


def _forget_pass(module: nn.Module, before: dict[str, Any]) -> None:
    for name, value in list(module.__dict__.items()):
        if not isinstance(value, (Tensor, list, tuple, dict)) or name in _OF_EVERY_MODULE:
            continue
        old = before.get(name)
        known = {*map(id, tensors_in(old))}
        if all(one.grad_fn is None or id(one) in known for one in tensors_in(value)):
            continue
        if type(value) is type(old) is list:
            value[:] = old
        elif type(value) is type(old) is dict:
            value.clear()
            value.update(old)
        elif name in before:
            module.__dict__[name] = old
        else:
            del module.__dict__[name]


_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)


def _check_weights(model: nn.Module) -> None:
    """Refuse weights that autograd cannot look through.

    Raises:
        CriticalityError: a parameter that was made under ``torch.inference_mode``, or as ``require_numbers``.
    """
    require_numbers(model)
    name = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if name is not None:
        raise CriticalityError(
            f"parameter {name!r} must hold numbers, and is on the meta device: build the model on another, or predict from the"
            " function that builds it"
        )
    name = next((name for name, parameter in model.named_parameters() if parameter.is_inference()), None)
    if name is not None:
        raise CriticalityError(
            f"parameter {name!r} must be made outside of torch.inference_mode, through whose tensors torch passes no"
            " gradients: load the model's state_dict into one that is made outside"
        )


def require_numbers(model: nn.Module) -> None:
    """Refuse parameters that nothing can be done with yet.

    Raises:
        CriticalityError: one of a lazy module that has seen no batch.
    """
    name = next((name for name, parameter in model.named_parameters() if is_lazy(parameter)), None)
    if name is not None:
        raise CriticalityError(
            f"parameter {name!r} must have a shape, and its lazy module has seen no batch: run the model once on one"
        )


def _set_mode(model: nn.Module, train: bool) -> None:
    try:
        model.train(train)
    except Exception as error:
        raise ModelFailedError(
            f"model {type(model).__name__} must have a training and an evaluation mode, and raised {raised(error)}:"
            " give the model that it was made of"
        ) from error


def fresh_batch_norms(model: nn.Module) -> list[nn.Module]:
    """Batch norms that keep running statistics and have seen no batch."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and isinstance(module.num_batches_tracked, Tensor)
        and not module.num_batches_tracked.is_meta
        and int(module.num_batches_tracked) == 0
    ]


@contextmanager
def placed(
    model: nn.Module, inputs: Any, device: torch.device | str | None, dtype: torch.dtype | None
) -> Iterator[Any]:
    """Move a model to a device and dtype, and back by putting its own tensors back; yields the inputs, moved too."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    home = (first.device, first.dtype) if first is not None else (torch.device("cpu"), torch.get_default_dtype())
    if dtype is not None and not dtype.is_floating_point:
        raise CriticalityError(f"dtype={dtype} must be a floating one, such as torch.float32")
    target = (torch_device(device) if device is not None else home[0], dtype or home[1])
    ready = to_device(inputs, *target)
    if target == home:
        yield ready
        return
    with _BUSY.setdefault(model, threading.RLock()):
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


def to_device(inputs: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move inputs; floating tensors also take ``dtype``.

    Raises:
        InputsError: inputs that hold no numbers.
    """

    def move(tensor: Tensor) -> Tensor:
        require_values(tensor)
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return mapped(move, as_tensors(inputs))
