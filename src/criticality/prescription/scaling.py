"""How a branch is scaled by writing parameters, tried on the model itself, and writing that is read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from criticality.errors import CriticalityError, InputsError
from criticality.stream import Call
from criticality.stream.find import watch
from criticality.stream.sharded import at_rest, gathered

_TRIED = 2.0
_CLOSE = 0.02


class WriteError(CriticalityError, RuntimeError):
    """A parameter did not take the value that was written, as those of sharded models may not."""


@dataclass(frozen=True)
class Scaled:
    """A parameter ``w`` that scales by ``offset + w``: to scale by ``c`` it becomes ``c (offset + w) - offset``.

    Attributes:
        offset: 0, or 1 for weights that are kept as differences from 1; ``None`` where neither scales the branch.
    """

    offset: float | None

    def value(self, before: Tensor, factor: float) -> Tensor:
        """Of the parameter after scaling, in its own dtype."""
        if not self.offset:
            return before * factor
        return (before.double() + self.offset).mul(factor).sub(self.offset).to(before.dtype)


def write(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write values into parameters by name and read them back.

    Raises:
        WriteError: a parameter that does not hold the value afterwards; all of them are then as they were, bit for bit.
    """
    at_rest(model)
    with put_back_on_failure(parameter_of(model, name) for name in values):
        with torch.no_grad():
            for name, value in values.items():
                parameter_of(model, name).copy_(value)
        for name, value in values.items():
            if not same(parameter_of(model, name), value):
                raise WriteError(
                    f"parameter {name!r} must hold the value that is written to it, and does not: is the model sharded,"
                    " or put back by somebody else?"
                )


def parameter_of(model: nn.Module, name: str) -> Tensor:
    """A parameter by its whole name.

    Raises:
        InputsError: there is none of that name any more.
    """
    try:
        return model.get_parameter(name)
    except AttributeError:
        raise InputsError(f"parameter {name!r} must be one of {type(model).__name__}, and is none") from None


def same(tensor: Tensor, value: Tensor) -> bool:
    """Whether two tensors hold the same bits; nan equals nan."""
    a, b = (gathered(one.detach().to(tensor.dtype)) for one in (tensor, value))
    if a.shape != b.shape:
        return False
    return a.is_meta or bool(((a == b) | (a.isnan() & b.isnan())).all())


Saved = list[tuple[Tensor, Tensor]]
"""Tensors with copies of what they held."""


def saved_values(tensors: Iterable[Tensor]) -> Saved:
    """Copies of tensors, each once."""
    return [(tensor, tensor.detach().clone()) for tensor in {id(tensor): tensor for tensor in tensors}.values()]


def put_back(saved: Saved) -> None:
    """Write copies back, bit for bit."""
    with torch.no_grad():
        for tensor, value in saved:
            tensor.copy_(value)


@contextmanager
def put_back_on_failure(tensors: Iterable[Tensor]) -> Iterator[Saved]:
    """Copies of tensors, which are put back when the block raises."""
    saved = saved_values(tensors)
    try:
        yield saved
    except BaseException:
        put_back(saved)
        raise


def decide(
    model: nn.Module, inputs: Any, handles: Sequence[tuple[tuple[str, ...], tuple[int, int]]]
) -> dict[str, Scaled]:
    """Whether parameters scale their branch when they are scaled, or when 1 more than they are is: tried with a factor of 2.

    All are scaled at once, and the value of each branch is put back as soon as it was seen, so that those after it see
    what they always do.

    Args:
        model: its parameters frozen, in evaluation mode.
        inputs: on its device.
        handles: names of parameters with the numbers of the calls between which they act.

    Returns:
        By name of the parameter; those of one handle have the same answer, that biases have no offset.
    """
    place, values = _last_calls(model, inputs, handles)
    decided: dict[int, float | None] = dict.fromkeys(range(len(handles)))
    for offset in (0.0, 1.0):
        tried = {number: offset if known is None else known for number, known in decided.items()}
        if all(known is not None for known in decided.values()):
            break
        for number in _doubled(model, inputs, handles, tried, place, values):
            if decided[number] is None:
                decided[number] = offset
    found: dict[str, Scaled] = {}
    for number, (names, _) in enumerate(handles):
        for index, name in enumerate(names):
            known = decided[number]
            found[name] = Scaled(known if index == 0 or known is None else 0.0)
    return found


def _last_calls(
    model: nn.Module, inputs: Any, handles: Sequence[tuple[tuple[str, ...], tuple[int, int]]]
) -> tuple[dict[int, int], dict[int, Tensor]]:
    """The call after which a handle has acted, by its number: which handle; and the values there."""
    last: dict[int, int] = {}
    values: dict[int, Tensor] = {}

    def note(call: Call, tensor: Tensor) -> None:
        for number, (names, (first, end)) in enumerate(handles):
            if first < call.number <= end and not set(names).isdisjoint(call.parameters):
                values.pop(last.get(number, -1), None)
                last[number], values[call.number] = call.number, tensor.detach().clone()

    watch(model, inputs, note)
    return {call: handle for handle, call in last.items()}, values


def _doubled(
    model: nn.Module,
    inputs: Any,
    handles: Sequence[tuple[tuple[str, ...], tuple[int, int]]],
    offsets: Mapping[int, float],
    place: Mapping[int, int],
    values: Mapping[int, Tensor],
) -> list[int]:
    """Handles whose branch is twice what it was when their parameters are scaled by 2."""
    twice: list[int] = []

    def note(call: Call, tensor: Tensor) -> Tensor | None:
        if call.number not in place:
            return None
        before = values[call.number]
        difference = (tensor.detach() - _TRIED * before).double().norm()
        if float(difference) <= _CLOSE * _TRIED * float(before.double().norm()):
            twice.append(place[call.number])
        return tensor - (tensor.detach() - before)

    written: dict[str, Tensor] = {}
    for number, (names, _) in enumerate(handles):
        for index, name in enumerate(names):
            rule = Scaled(offsets[number] if index == 0 else 0.0)
            written[name] = rule.value(parameter_of(model, name).detach(), _TRIED)
    saved = saved_values(parameter_of(model, name) for name in written)
    try:
        write(model, written)
        watch(model, inputs, note)
    finally:
        put_back(saved)
    return twice
