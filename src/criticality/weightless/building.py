"""Build a model without allocating its weights, its own initialization included."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from criticality.arguments import Count, Seed, check, checked
from criticality.errors import RAISED, CriticalityError, UnknownLawError, model_failed, raised
from criticality.randomness import forked, seed_everything
from criticality.weightless.creation import contents_of, created
from criticality.weightless.entries import AT_LEAST, Player, playing
from criticality.weightless.weight import RandomWeight

Model = TypeVar("Model", bound=nn.Module)

LARGEST_CONSTANT = 2**22
"""A parameter of equal entries (a norm's weight, a bias of zeros) is made real up to this size."""


class _Allocations(TorchDispatchMode):
    """Large floating tensors that are allocated inside are random weights."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Without it torch wraps each call of the mode, so that the first one imports the whole compiler."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (
            contents_of(func) is not None
            and kwargs.get("out") is None
            and kwargs.get("layout") in (None, torch.strided)
        ):
            return created(func, args, kwargs)
        return func(*args, **kwargs)


class _DataOfRealTensors(TorchFunctionMode):
    """``tensor.data = random weight`` on a real tensor, which does not ask the class of the value."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.data.__set__ and isinstance(args[1], RandomWeight):  # type: ignore[attr-defined]
            return RandomWeight.__torch_function__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


@checked
def build_without_weights(factory: Callable[[], Model], *, at_least: Count = AT_LEAST, seed: Seed = 0) -> Model:
    """Call ``factory`` and return the model that it builds, in which large floating parameters are ``RandomWeight``.

    The model's own initialization runs; what it does to a large parameter is played on a sample of the entries. Small
    parameters, all buffers and everything that is computed (masks, tables of positions) are real tensors with the values that
    they always have. Ties stay ties. The state of PyTorch's random numbers is as before.

    Args:
        factory: builds a model, on any device but meta.
        at_least: number of entries from which a floating tensor has no memory.
        seed: of the small parameters, and of what is drawn really.

    Raises:
        UnknownLawError: an operation on a weight of more than 2^26 entries needs its numbers, or a buffer of more than these
            has random entries.

    Example:
        >>> model = build_without_weights(lambda: nn.Linear(10**6, 10**6))
        >>> law = model.weight.law
        >>> round(law.second_moment * 3e6, 3)
        1.0
    """
    with _random_state(), playing(Player(seed, at_least=at_least)):
        seed_everything(seed)
        with _DataOfRealTensors(), _Allocations(), warnings.catch_warnings(), torch.inference_mode(False):
            model = _called(factory)
        settle(model)
    _fill_unwritten_buffers(model)
    return model


def _called(factory: Callable[[], Model]) -> Model:
    try:
        model = factory()
    except CriticalityError:
        raise
    except RAISED as error:
        raise model_failed(f"factory must return a model, and its own code raised {raised(error)}", error) from error
    check(nn.Module, "factory()", model)
    on_meta = [name for name, one in model.named_parameters() if one.is_meta]
    if on_meta:
        raise UnknownLawError(f"parameter {on_meta[0]!r} must be built on a device that holds numbers, and is on meta")
    return model


@torch.no_grad()
def _fill_unwritten_buffers(model: nn.Module) -> None:
    """Zeros in the buffers that nothing was written to, such as caches, as memory fresh from the system has."""
    for buffer in model.buffers():
        if buffer.is_floating_point() and buffer.numel() and bool(buffer.isnan().all()):
            buffer.zero_()


def _random_state() -> Any:
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return forked(devices)


@torch.no_grad()
def settle(model: nn.Module) -> None:
    """Replace by real tensors what need not stay random: buffers, constants, small parts, and all whose numbers are drawn.

    Raises:
        UnknownLawError: a buffer with random entries is too large to be drawn.
    """
    settled: dict[int, Tensor] = {}
    for path, module in model.named_modules():
        for name, parameter in _random(module._parameters):
            if id(parameter) not in settled:
                settled[id(parameter)] = _settled_parameter(parameter)
            module._parameters[name] = settled[id(parameter)]
        for name, buffer in _random(module._buffers):
            if id(buffer) not in settled:
                settled[id(buffer)] = _settled_buffer(buffer, f"{path}.{name}" if path else name)
            module._buffers[name] = settled[id(buffer)]
        for name, tensor in _random(module.__dict__):
            module.__dict__[name] = (
                settled.get(id(tensor), tensor) if tensor.memory.real is None else tensor.numbers(name)
            )


def _random(tensors: Any) -> Iterator[tuple[str, RandomWeight]]:
    return ((name, tensor) for name, tensor in list(tensors.items()) if isinstance(tensor, RandomWeight))


def _settled_parameter(weight: RandomWeight) -> nn.Parameter | RandomWeight:
    pieces = weight.pieces()
    if weight.memory.real is None and pieces is not None:
        constant = len(pieces) == 1 and pieces[0].entries.constant and weight.law.known
        if constant and weight.numel() <= LARGEST_CONSTANT:
            return _real_parameter(_filled(weight, pieces[0].entries.values.item()), weight)
        row = weight.numel() // max(1, len(weight)) if weight.dim() else 1
        if all(length % row == 0 for length, _ in pieces):
            return weight
    return _real_parameter(weight.numbers("a parameter whose law changes along an axis other than the first"), weight)


def _filled(weight: Tensor, value: float) -> Tensor:
    """Zeros take no memory until they are written."""
    if value == 0:
        return torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device)
    return torch.full(weight.shape, value, dtype=weight.dtype, device=weight.device)


def _real_parameter(real: Tensor, weight: RandomWeight) -> nn.Parameter:
    parameter = nn.Parameter(real, requires_grad=weight.requires_grad)
    parameter.__dict__.update(
        {name: value for name, value in weight.__dict__.items() if name not in ("memory", "_is_param")}
    )
    return parameter


def _settled_buffer(buffer: RandomWeight, name: str) -> Tensor:
    pieces = buffer.pieces()
    if pieces is not None and len(pieces) == 1 and pieces[0].entries.constant:
        return _filled(buffer, pieces[0].entries.values.item())
    try:
        return buffer.numbers(f"buffer {name}")
    except UnknownLawError:
        raise UnknownLawError(
            f"buffer {name} has {buffer.numel():,} random entries, too many to be drawn; make it a parameter, or build it smaller"
        ) from None
