"""The table of rules, and what a rule is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.tape import Operation, Value
from criticality.reader.terms import Seen


class Constants(Protocol):
    """What a rule may ask of the reader."""

    def exact(self, value: Value) -> Tensor:
        """The numbers of a constant in double precision, as exactly as they are known."""
        ...

    def given(self, value: Value) -> Seen:
        """A constant as a field."""
        ...


Rule = Callable[..., Any]
"""``rule(reader, operation, *args, **kwargs)`` with ``Seen`` or ``Scores`` in the place of tensors that depend on the inputs and
``Value`` in the place of constants; returns the same, or a tuple of them."""

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for functions of torch by their names (``tape.Operation.name``)."""

    def register(found: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, found))
        return found

    return register


def number_of(reader: Constants, value: Any) -> float | None:
    """A constant that is one number; ``None`` for anything else."""
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Value) and value.known and value.tensor.numel() == 1:
        return float(reader.exact(value))
    return None


def numbers_of(reader: Constants, value: Any) -> float | Tensor:
    """A constant as one number or a tensor of them.

    Raises:
        UndescribedError: its numbers are not known.
    """
    number = number_of(reader, value)
    if number is not None:
        return number
    if isinstance(value, Value) and value.known:
        return reader.exact(value)
    raise UndescribedError("a factor must be a number or a vector, and is a random weight")


def plain_number(value: Any) -> Any:
    """An argument of a view or a shape: constants as tensors, fields by their shapes."""
    if isinstance(value, Value):
        return value.tensor
    if isinstance(value, Seen):
        return torch.empty(value.shape, device="meta")
    return value


def pure(operation: Operation) -> Callable[..., Any]:
    """The function without its effect on its first argument."""
    name = getattr(operation.function, "__name__", "")
    if name.endswith("_") and not name.endswith("__"):
        return lambda first, *args, **kwargs: operation.function(first.clone(), *args, **kwargs)
    return operation.function
