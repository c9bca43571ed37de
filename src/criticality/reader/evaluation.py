"""From recorded calls to fields: each value is read once, from the calls that made it back to a point of the stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from criticality.errors import UndescribedError
from criticality.reader.rules import RULES
from criticality.reader.shadow import Shadow
from criticality.reader.tape import Operation, Value
from criticality.reader.terms import Given, Part, Scores, Seen, Table, counted
from criticality.stream.inputs import mapped
from criticality.weightless.weight import RandomWeight

_PRECISE = frozenset(("cos", "sin"))
_KEEPING = frozenset(
    ("to", "float", "double", "half", "bfloat16", "type", "type_as", "contiguous", "clone", "detach", "view", "reshape",
     "transpose", "permute", "unsqueeze", "squeeze", "expand", "flatten", "__getitem__", "chunk", "split", "unbind", "cat",
     "stack", "repeat", "repeat_interleave", "mul", "neg", "select", "narrow", "index_select")
)  # fmt: skip
_CASTS = frozenset(("to", "float", "double", "half", "bfloat16", "type", "type_as", "detach", "contiguous", "clone"))


class Evaluation:
    """Reads values as fields, from the values where reading begins.

    Args:
        starts: fields that stand for values.
        where: name of the module in which an operation was called, for errors.
    """

    def __init__(self, starts: Mapping[int, Seen], where: Callable[[Value], str]):
        self._seen: dict[int, Any] = dict(starts)
        self._made: dict[int, Any] = {}
        self._where = where

    def __call__(self, value: Value) -> Seen | Scores:
        """What a value is.

        Raises:
            UndescribedError: a call without a rule, or that does what the theory does not describe; names the call and its module.
        """
        pending = [value]
        while pending:
            one = pending[-1]
            if one.number in self._seen:
                pending.pop()
                continue
            missing = [other for other in _inputs(one) if other.open and other.number not in self._seen]
            if missing:
                pending += missing
                continue
            self._seen[one.number] = self._read(one)
            pending.pop()
        found: Seen | Scores = self._seen[value.number]
        return found

    def _read(self, value: Value) -> Any:
        operation = value.operation
        if operation is None:
            return self._leaf(value)
        if id(operation) not in self._made:
            self._made[id(operation)] = self._called(operation, value)
        found = self._made[id(operation)]
        return found[value.output] if isinstance(found, tuple) else found

    def _called(self, operation: Operation, value: Value) -> Any:
        found = RULES.get(operation.name)
        place = f"call {operation.name!r} in {self._where(value) or 'the model itself'!r}"
        if found is None or operation.inside:
            how = "has no rule for it" if found is None else "does not follow what is written into a part of a value"
            raise UndescribedError(f"{place} must be one that the exact theory reads, which {how}")
        args, kwargs = mapped(self._argument, (operation.args, operation.kwargs), Value)
        try:
            return found(self, operation, *args, **kwargs)
        except UndescribedError as error:
            raise UndescribedError(f"{place} is not read by the exact theory: {error}") from error
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError, KeyError) as error:
            said = str(error).strip().splitlines()
            raise UndescribedError(
                f"{place} is not read by the exact theory: its arguments are of another form than those of the rule"
                f" ({type(error).__name__}: {said[0] if said else ''})"
            ) from error

    def _argument(self, value: Value) -> Any:
        return self._seen[value.number] if value.number in self._seen or value.open else value

    def _leaf(self, value: Value) -> Seen:
        tensor = value.tensor
        if isinstance(tensor, Shadow):
            raise UndescribedError("a value must be made by calls that are seen, and one is made out of sight")
        return _field(tensor.detach())

    def given(self, value: Value) -> Seen:
        """A constant as a field: a parameter by its law, anything else by its numbers."""
        tensor, operation = value.tensor, value.operation
        if isinstance(tensor, (nn.Parameter, RandomWeight)) and operation is None:
            width = tensor.shape[-1] if tensor.ndim else 1
            rows = tensor.numel() // width
            base = Table(rows, width, tensor, torch.arange(rows))
            return Seen(base, (Part(counted(tensor.numel()).reshape(tensor.shape)),))
        inputs = list(operation.given()) if operation is not None else []
        if operation is not None and inputs and operation.name in _KEEPING and _of_parameters(value):
            args, kwargs = mapped(
                lambda one: self.given(one) if _of_parameters(one) else one, (operation.args, operation.kwargs), Value
            )
            found = RULES[operation.name](self, operation, *args, **kwargs)
            return found[value.output] if isinstance(found, tuple) else found
        if not value.known:
            raise UndescribedError("a value that is added must be a parameter, or be made of numbers, and is neither")
        return _field(tensor.detach())

    def exact(self, value: Value) -> Tensor:
        """The numbers of a constant in double precision; cosines and sines are computed again from their angles."""
        if (
            value.version != (0 if value.tensor.is_inference() else value.tensor._version)
            and value.operation is not None
        ):
            raise UndescribedError("a constant must stay what it is, and is written to after it was used")
        return _exact(value)


def _exact(value: Value) -> Tensor:
    operation = value.operation
    plain = value.tensor.detach().double()
    if operation is None or value.tensor.numel() == 1 or not value.tensor.is_floating_point():
        return plain
    if operation.name in _PRECISE and isinstance(operation.args[0], Value):
        angles = operation.args[0].tensor.detach().double()
        return angles.cos() if operation.name == "cos" else angles.sin()
    if operation.name not in _KEEPING or not _from_angles(value):
        return plain
    if operation.name in _CASTS:
        return _exact(operation.args[0])
    args, kwargs = mapped(
        lambda one: _exact(one) if one.tensor.is_floating_point() else one.tensor,
        (operation.args, operation.kwargs),
        Value,
    )
    found = operation.function(*args, **kwargs)
    exact: Tensor = found[value.output] if operation.several else found
    return exact if exact.shape == plain.shape else plain


def _from_angles(value: Value) -> bool:
    """Whether a constant is made from cosines or sines by views and factors only."""
    operation = value.operation
    if operation is None:
        return False
    if operation.name in _PRECISE:
        return True
    return operation.name in _KEEPING and any(_from_angles(one) for one in operation.given())


def _of_parameters(value: Value) -> bool:
    """Whether a constant is a view of a parameter, or several put together."""
    if value.operation is None:
        return isinstance(value.tensor, (nn.Parameter, RandomWeight))
    given = list(value.operation.given())
    return value.operation.name in _KEEPING and bool(given) and any(_of_parameters(one) for one in given)


def _field(tensor: Tensor) -> Seen:
    """Numbers as rows of channels."""
    width = tensor.shape[-1] if tensor.ndim else 1
    rows = tensor.numel() // max(1, width)
    base = Given(rows, width, tensor.double().reshape(rows, width))
    return Seen(base, (Part(counted(tensor.numel()).reshape(tensor.shape)),))


def _inputs(value: Value) -> list[Value]:
    return [] if value.operation is None else list(value.operation.given())
