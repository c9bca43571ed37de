"""Functions of each entry."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.rules.table import number_of, pure, rule
from criticality.reader.tape import Operation
from criticality.reader.terms import Scores, Seen, composed

_BUILT_IN = {"tanh": "tanh", "erf": "erf", "atan": "arctan", "arctan": "arctan", "silu": "silu", "relu": "relu"}


@rule("tanh", "erf", "atan", "arctan", "silu", "relu", "gelu", "sigmoid", "softplus", "mish", "elu", "celu", "selu")
@rule("leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "relu6", "log_sigmoid", "softsign", "exp", "log", "log1p")
@rule("square", "sqrt", "rsqrt", "reciprocal", "abs", "clamp", "clamp_min", "clamp_max", "pow", "sin", "cos", "expm1")
def function(reader: Any, operation: Operation, first: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(first, Scores):
        raise UndescribedError(
            f"scores of attention must go into the softmax as they are, and {operation.name} acts on them"
        )
    if not isinstance(first, Seen):
        raise UndescribedError(f"{operation.name} must act on a value by numbers, and does otherwise")
    numbers = [_argument(reader, one) for one in args]
    named = {key: _argument(reader, one) for key, one in kwargs.items() if key not in ("inplace", "out")}
    call = pure(operation)

    def core(x: Tensor) -> Tensor:
        found: Tensor = call(x, *numbers, **named)
        return found

    name = _BUILT_IN.get(operation.name)
    if operation.name == "gelu":
        name = "gelu_tanh" if "tanh" in (*numbers, *named.values()) else "gelu"
    return composed(first, core, name)


@rule(
    "named_pointwise", "pointwise.default"
)  # of models.functions, by the name of a function of the library or of a file
def by_name(reader: Any, operation: Operation, first: Seen, name: str) -> Seen:
    return composed(first, lambda x: operation.function(x, name), name)


def _argument(reader: Any, value: Any) -> Any:
    if value is None or isinstance(value, (bool, str, int, float)):
        return value
    number = number_of(reader, value)
    if number is None:
        raise UndescribedError("a function of each entry must take numbers beside it, and takes others")
    return number


@rule("prelu")
def prelu(reader: Any, operation: Operation, first: Seen, weight: Any) -> Seen:
    slope = number_of(reader, weight)
    if slope is None:
        raise UndescribedError("the slope of prelu must be one number, and differs between channels")
    return composed(first, lambda x: torch.where(x > 0, x, slope * x))
