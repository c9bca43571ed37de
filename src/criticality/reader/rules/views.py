"""Views, copies and rearrangements: each is done to the numbers of the entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.rules.table import plain_number, rule
from criticality.reader.tape import Operation, Value
from criticality.reader.terms import Joined, Part, Scores, Seen, closed, whole_numbers
from criticality.stream.inputs import mapped


@rule("contiguous", "clone", "to", "float", "double", "half", "bfloat16", "type", "type_as", "alias", "data")
@rule("dropout", "feature_dropout", "alpha_dropout", "native_dropout", "dropout1d", "dropout2d")
def unchanged(reader: Any, operation: Operation, first: Any, *args: Any, **kwargs: Any) -> Any:
    return first


@rule("detach")
def detach(reader: Any, operation: Operation, first: Any) -> Any:
    given = operation.args[0]
    if isinstance(given, Value) and given.depends:
        raise UndescribedError("every value of a branch must pass a gradient on, and one is detached")
    return first


@rule("view", "reshape", "flatten", "unflatten", "view_as", "reshape_as", "ravel")
@rule("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T", "mT", "adjoint")
@rule("squeeze", "unsqueeze", "expand", "expand_as", "repeat", "repeat_interleave", "tile", "broadcast_to")
@rule("split", "chunk", "tensor_split", "split_with_sizes", "unbind", "narrow", "select", "__getitem__", "index_select")
@rule("roll", "flip", "rot90")
def view(reader: Any, operation: Operation, first: Any, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = mapped(plain_number, (args, kwargs), (Value, Seen))
    if any(isinstance(one, torch.dtype) for one in args):
        raise UndescribedError("numbers must not be read in another format, and are")
    function: Callable[..., Any] = _AS_RESHAPE.get(operation.name, operation.function)

    def run(tensor: Tensor) -> Any:
        return function(tensor, *args, **kwargs)

    if isinstance(first, Scores):
        return _view_of_scores(first, run)
    if not operation.several:
        return first.viewed(run)
    parts = [
        (run(part.index), run(part.coefficient) if isinstance(part.coefficient, Tensor) else None)
        for part in first.parts
    ]
    return tuple(
        Seen(
            first.base,
            tuple(
                Part(index[number], part.coefficient if coefficient is None else coefficient[number])
                for part, (index, coefficient) in zip(first.parts, parts, strict=True)
            ),
        )
        for number in range(len(parts[0][0]))
    )


_AS_RESHAPE: dict[str, Callable[..., Any]] = {
    "view": Tensor.reshape,
    "view_as": Tensor.reshape_as,
    "mT": lambda tensor: tensor.transpose(-1, -2),
}


def _view_of_scores(scores: Scores, run: Any) -> Scores:
    """Only the axes of the heads may be rearranged."""
    shape = scores.shape
    numbers = torch.arange(shape[:-2].numel()).reshape(*shape[:-2], 1, 1).expand(shape)
    heads = run(numbers)
    if not isinstance(heads, Tensor) or heads.shape[-2:] != shape[-2:] or not bool((heads == heads[..., :1, :1]).all()):
        raise UndescribedError("scores of attention must keep their tokens in the last two axes, and do not")
    place = heads[..., 0, 0]

    def moved(seen: Seen) -> Seen:
        return seen.viewed(
            lambda one: one.expand(*shape[:-2], *one.shape[-2:]).flatten(0, -3)[place] if shape[:-2] else one
        )

    allowed = scores.allowed
    if allowed is not None:
        allowed = allowed.expand(shape).flatten(0, -3)[place]
    return Scores(moved(scores.query), moved(scores.key), scores.scale, allowed, scores.weights)


@rule("cat", "stack", "hstack", "vstack")
def cat(reader: Any, operation: Operation, tensors: Sequence[Any], dim: int = 0) -> Seen:
    seen = [one if isinstance(one, Seen) else reader.given(one) for one in tensors]
    seen = [one for one in seen if one.shape.numel() or operation.name == "stack"]
    if any(one.base is not seen[0].base for one in seen):
        if dim in (-1, seen[0].parts[0].index.ndim - 1) and operation.name != "stack":
            raise UndescribedError("values put side by side along the channels must be of one projection, and are not")
        seen = _joined(seen)
    put = torch.stack if operation.name == "stack" else torch.cat
    parts = []
    for number in range(max(len(one.parts) for one in seen)):
        chosen = [one.parts[number] if number < len(one.parts) else _nothing(one) for one in seen]
        coefficients = [part.coefficient for part in chosen]
        index = put([part.index for part in chosen], dim)
        if all(not isinstance(one, Tensor) and one == coefficients[0] for one in coefficients):
            parts.append(Part(index, coefficients[0]))
            continue
        full = [
            torch.as_tensor(one, dtype=torch.float64).expand(part.index.shape)
            for one, part in zip(coefficients, chosen, strict=True)
        ]
        parts.append(Part(index, put(full, dim)))
    return Seen(seen[0].base, tuple(parts))


def _nothing(seen: Seen) -> Part:
    return Part(seen.parts[0].index, 0.0)


def _joined(seen: list[Seen]) -> list[Seen]:
    """The same entries, numbered through."""
    closings = [closed(one) for one in seen]
    bases: dict[int, Any] = {}
    for factor, one in closings:
        if bases.setdefault(id(one.base), (factor, one.base))[0] != factor:
            raise UndescribedError("parts of one field must be scaled alike where they are put together, and are not")
    channels = {base.channels for _, base in bases.values()}
    if len(channels) != 1:
        raise UndescribedError(
            f"tokens that are put together must have as many channels each, and have {sorted(channels)}"
        )
    (width,) = channels
    starts, total = {}, 0
    for key, (_, base) in bases.items():
        starts[key], total = total, total + base.rows
    joined = Joined(total, width, tuple(bases.values()))
    return [
        Seen(joined, (Part(one.parts[0].index.to(whole_numbers(total * width)) + starts[id(one.base)] * width),))
        for _, one in closings
    ]
