"""Sums, products and quotients of fields and constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.entrywise import is_power
from criticality.reader.moments import Bias
from criticality.reader.rules.norms import centred, over_its_size, with_bias
from criticality.reader.rules.table import number_of, numbers_of, rule
from criticality.reader.tape import Operation, Value
from criticality.reader.terms import (
    Applied,
    Gated,
    Normalized,
    Part,
    Picked,
    Projected,
    Scores,
    Seen,
    Sum,
    Term,
    applied,
    channels_of,
    closed,
    composed,
    counted,
    is_plain,
    root_of,
    rows_of,
    same_entries,
)


@rule("add")
def add(reader: Any, operation: Operation, first: Any, second: Any, *, alpha: float = 1) -> Any:
    if alpha != 1:
        second = multiplied(reader, second, alpha) if isinstance(second, (Seen, Scores)) else second * alpha
    for one, other in ((first, second), (second, first)):
        if isinstance(one, Scores):
            return masked_by(reader, one, other)
    if isinstance(first, Seen) and isinstance(second, Seen):
        return added(first, second)
    seen, constant = (first, second) if isinstance(first, Seen) else (second, first)
    number = number_of(reader, constant)
    if number is not None:
        if number == 0.0:
            return seen
        root, function = root_of(seen)
        if isinstance(seen.base, Projected) and isinstance(constant, Value):
            return _biased(reader, seen, constant)
        return applied(seen, root, function.affine(1.0, number))
    if _is_vector(constant, seen):
        return _biased(reader, seen, constant)
    return added(seen, reader.given(constant))


@rule("sub")
def sub(reader: Any, operation: Operation, first: Any, second: Any, *, alpha: float = 1) -> Any:
    if isinstance(first, Seen) and isinstance(second, Seen) and alpha == 1:
        found = centred(first, second)
        if found is not None:
            return found
    if isinstance(second, Seen):
        return add(reader, operation, first, second.times(-alpha))
    number = number_of(reader, second)
    if number is None:
        raise UndescribedError(
            "what is taken away from a value must be a number or a value, and is a tensor of numbers"
        )
    return add(reader, operation, first, -alpha * number)


@rule("rsub")
def rsub(reader: Any, operation: Operation, first: Any, second: Any) -> Any:
    return sub(reader, operation, second, first)


@rule("neg")
def neg(reader: Any, operation: Operation, first: Any) -> Any:
    return multiplied(reader, first, -1.0)


@rule("mul")
def mul(reader: Any, operation: Operation, first: Any, second: Any) -> Any:
    if not isinstance(first, (Seen, Scores)):
        first, second = second, first
    return multiplied(reader, first, second)


def multiplied(reader: Any, first: Any, second: Any) -> Any:
    """A value times a number, a vector, or another value."""
    if isinstance(first, Scores):
        number = number_of(reader, second)
        if number is None or first.weights or first.allowed is not None:
            raise UndescribedError("scores of attention must be scaled by one number, before any mask, and are not")
        return replace(first, scale=first.scale * number)
    if isinstance(second, Seen):
        return _product(first, second)
    return first.times(numbers_of(reader, second))


@rule("div")
def div(reader: Any, operation: Operation, first: Any, second: Any, *, rounding_mode: Any = None) -> Any:
    if rounding_mode is not None:
        raise UndescribedError("a quotient must not be rounded, and is")
    if not isinstance(second, Seen):
        factor = numbers_of(reader, second)
        return multiplied(reader, first, 1 / factor) if isinstance(factor, float) else first.times(1 / factor)
    if not isinstance(first, Seen):
        return rdiv(reader, operation, second, first)
    found = over_its_size(first, second, True)
    if found is None:
        found = _of_one_field(first, second, torch.div)
    if found is None:
        raise UndescribedError("a value must be divided by the size of its own channels, and is divided by another")
    return found


@rule("rdiv")
def rdiv(reader: Any, operation: Operation, first: Seen, second: Any) -> Seen:
    number = number_of(reader, second)
    if number is None:
        raise UndescribedError("what is divided by a value must be a number, and is more")
    return composed(first, lambda x: number / x)


@rule("addcmul")
def addcmul(reader: Any, operation: Operation, first: Any, one: Any, other: Any, *, value: float = 1) -> Any:
    factors = (one, other) if isinstance(one, Seen) else (other, one)
    return add(reader, operation, first, multiplied(reader, multiplied(reader, *factors), float(value)))


def _product(first: Seen, second: Seen) -> Seen:
    for one, other in ((first, second), (second, first)):
        found = over_its_size(one, other, False)
        if found is not None:
            return found
    found = _of_one_field(first, second, torch.mul)
    if found is not None:
        return found
    if first.shape != second.shape:
        raise UndescribedError("values that are multiplied must be of one shape, and are not")
    tokens, _ = rows_of(first)
    others, _ = rows_of(second)
    if not bool((tokens == others).all()):
        raise UndescribedError("values that are multiplied must be of the same tokens, and are not")
    width = first.shape[-1]
    term = Gated(first.base.rows, width, first, second)
    return Seen(term, (Part(channels_of(tokens, first.base.rows, width)),))


def _of_one_field(first: Seen, second: Seen, how: Any) -> Seen | None:
    """A function of two functions of the same entries; ``None`` when they are others."""
    if len(first.parts) != 1 or len(second.parts) != 1:
        return None
    (root, one), (other_root, other) = root_of(first), root_of(second)
    if root is not other_root or not same_entries(first, second):
        return None
    return applied(first, root, one.joined(other, how))


def added(first: Seen, second: Seen) -> Seen:
    """The sum of two values: of entries of one field, such as rotated channels, or of several fields, as where branches meet."""
    if first.base is second.base and first.shape == second.shape:
        if same_entries(first, second):
            part, more = first.parts[0], second.parts[0]
            return Seen(first.base, (Part(part.index, part.coefficient + more.coefficient),))
        return Seen(first.base, first.parts + second.parts)
    if len(first.parts) == len(second.parts) == 1 and first.shape == second.shape and same_entries(first, second):
        (root, one), (other_root, other) = root_of(first), root_of(second)
        if root is other_root and (is_power(one, 1) is None or is_power(other, 1) is None):
            return applied(first, root, one.joined(other, torch.add))
    return _sum(first, second)


def _sum(first: Seen, second: Seen) -> Seen:
    shape = torch.broadcast_shapes(first.shape, second.shape)
    seen = [one if one.shape == shape else one.viewed(lambda index: index.expand(shape)) for one in (first, second)]
    closings = [closed(one) for one in seen]
    (_, one), (_, other) = closings
    if (one.base.rows, one.base.channels) == (other.base.rows, other.base.channels) and same_entries(one, other):
        index, fields = one.parts[0].index, [(factor, part.base) for factor, part in closings]
    else:
        fields = [(factor, _renumbered(part)) for factor, part in closings]
        index = counted(shape.numel()).reshape(shape)
    parts: list[tuple[float, Term]] = []
    for factor, base in fields:
        inner = base.parts if isinstance(base, Sum) else ((1.0, base),)
        parts += [(factor * one, term) for one, term in inner]
    merged: dict[int, tuple[float, Term]] = {}
    for factor, term in parts:
        merged[id(term)] = (merged[id(term)][0] + factor if id(term) in merged else factor, term)
    return Seen(Sum(fields[0][1].rows, fields[0][1].channels, tuple(merged.values())), (Part(index),))


def _renumbered(seen: Seen) -> Term:
    """A field whose entries are those of a tensor, in order."""
    if is_plain(seen):
        return seen.base
    tokens, channels = rows_of(seen)
    if len(channels) != seen.base.channels or not bool((channels == torch.arange(len(channels))).all()):
        raise UndescribedError("tokens and channels of values that are added must correspond, and do not")
    return Picked(tokens.numel(), seen.base.channels, seen.base, tokens.reshape(-1))


def _is_vector(constant: Any, seen: Seen) -> bool:
    """Whether something is added to each channel, the same for every token."""
    shape = constant.tensor.shape
    return (
        constant.tensor.numel() == seen.shape[-1]
        and shape[-1] == seen.shape[-1]
        and isinstance(seen.base, (Projected, Normalized, Applied))
    )


def _biased(reader: Any, seen: Seen, constant: Any) -> Seen:
    factor, inner = closed(seen)
    base = inner.base
    _, channels = rows_of(inner)
    if not isinstance(base, Projected):
        return with_bias(seen, numbers_of(reader, constant))
    if len(channels) != base.channels or not bool((channels == torch.arange(len(channels))).all()):
        raise UndescribedError("a bias must be added to all channels of a projection in order, and is added to some")
    tensor = constant.tensor.reshape(-1).expand(base.channels)
    weight = replace(base.weight, factor=base.weight.factor * factor)
    biases = tuple(replace(one, factor=one.factor * factor) for one in base.bias)
    return Seen(replace(base, weight=weight, bias=(*biases, Bias(tensor))), inner.parts)


def masked_by(reader: Any, scores: Scores, mask: Any) -> Scores:
    """Scores with a mask added: 0 where a token is seen, a large negative number where it is not.

    Raises:
        UndescribedError: anything else that is added.
    """
    number = number_of(reader, mask)
    if number == 0.0:
        return scores
    if not isinstance(mask, Value) or scores.weights:
        raise UndescribedError("what is added to the scores of attention must be a mask, and depends on the inputs")
    numbers = numbers_of(reader, mask)
    values = torch.as_tensor(numbers, dtype=torch.float64)
    allowed, forbidden = values == 0.0, values <= _FORBIDDEN
    if not bool((allowed | forbidden).all()):
        raise UndescribedError("what is added to the scores of attention must be a mask of 0 and -inf, and is a bias")
    return only(scores, allowed)


def only(scores: Scores, allowed: Tensor) -> Scores:
    """Scores of fewer tokens."""
    if bool(allowed.all()):
        return scores
    return replace(scores, allowed=allowed if scores.allowed is None else scores.allowed & allowed)


_FORBIDDEN = -1e4
