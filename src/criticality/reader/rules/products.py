"""Products with weights: linear maps of tokens, patches, look-ups."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.moments import Bias, Weight
from criticality.reader.rules.arithmetic import add
from criticality.reader.rules.attention import product
from criticality.reader.rules.table import rule
from criticality.reader.tape import Operation, Value
from criticality.reader.terms import Given, Part, Projected, Scores, Seen, Table, channels_of, closed, counted, rows_of


def projected(x: Seen, weight: Tensor, outputs: int, biases: tuple[Tensor, ...] = (), factor: float = 1.0) -> Seen:
    """The last axis of ``x``, channels of one token, summed with a matrix whose axis ``outputs`` counts what comes out."""
    gain, inner = closed(x)
    tokens, channels = rows_of(inner)
    if len(channels.unique()) != len(channels):
        raise UndescribedError("a projection must take each channel once, and takes some several times")
    width, fan_in = weight.shape[outputs], len(channels)
    base = inner.base
    made = Projected(
        base.rows,
        width,
        base,
        Weight(weight, outputs % weight.ndim, fan_in, gain * factor),
        tuple(Bias(bias.reshape(-1).expand(width)) for bias in biases),
    )
    return Seen(made, (Part(channels_of(tokens, base.rows, width)),))


@rule("linear")
def linear(reader: Any, operation: Operation, x: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(weight, Value):
        raise UndescribedError("the weight of a linear map must be a parameter, and depends on the inputs")
    seen = reader.given(x) if isinstance(x, Value) else x
    return projected(seen, weight.tensor, 0, () if bias is None else (bias.tensor,))


@rule("matmul")
def matmul(reader: Any, operation: Operation, first: Any, second: Any, **_: Any) -> Any:
    if isinstance(second, Value) and isinstance(first, Seen) and second.tensor.ndim == 2:
        return projected(first, second.tensor, 1)
    if isinstance(first, Value) or isinstance(second, Value):
        raise UndescribedError("a matrix product must be of a token's channels and a weight matrix, and is another")
    return product(first, second)


@rule("rmatmul")
def rmatmul(reader: Any, operation: Operation, first: Any, second: Any) -> Any:
    return matmul(reader, operation, second, first)


@rule("addmm")
def addmm(
    reader: Any, operation: Operation, bias: Any, first: Any, second: Any, *, beta: float = 1, alpha: float = 1
) -> Any:
    if not isinstance(second, Value) or not isinstance(bias, Value) or beta != 1:
        raise UndescribedError("addmm must add a bias to a product with a weight, and does otherwise")
    return projected(first, second.tensor, 1, (bias.tensor,), float(alpha))


@rule("baddbmm")
def baddbmm(
    reader: Any, operation: Operation, added: Any, first: Any, second: Any, *, beta: float = 1, alpha: float = 1
) -> Any:
    found = product(first, second)
    if not isinstance(found, Scores):
        raise UndescribedError("baddbmm must give scores of attention, and does not")
    found = Scores(found.query, found.key, found.scale * alpha)
    return found if beta == 0 else add(reader, operation, found, added)


@rule("conv1d", "conv2d", "conv3d")
def convolution(
    reader: Any,
    operation: Operation,
    x: Seen,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Seen:
    """Patches that do not overlap; channels on axis 1."""
    kernel = tuple(weight.tensor.shape[2:])
    steps, pads = _each(stride, len(kernel)), _each(padding, len(kernel))
    if groups != 1 or any(pads) or steps != kernel or (any(one != 1 for one in _each(dilation, len(kernel)))):
        raise UndescribedError(
            f"a convolution must be of patches that do not overlap, and has the kernel {kernel}, stride {steps}, padding {pads}"
        )
    axes = range(2, 2 + len(kernel))

    def patches(tensor: Tensor) -> Tensor:
        for axis, size in zip(axes, kernel, strict=True):
            tensor = tensor.unfold(axis, size, size)
        return tensor.movedim(1, 1 + len(kernel)).flatten(1 + len(kernel))

    rows = x.viewed(patches)
    if isinstance(rows.base, Given):
        numbers = rows.base.numbers.reshape(-1)[rows.parts[0].index].reshape(-1, rows.shape[-1])
        numbers = numbers * rows.parts[0].coefficient if isinstance(rows.parts[0].coefficient, float) else numbers
        rows = Seen(
            Given(len(numbers), numbers.shape[1], numbers),
            (Part(counted(numbers.numel()).reshape(rows.shape)),),
        )
    found = projected(rows, weight.tensor, 0, () if bias is None else (bias.tensor,))
    return found.viewed(lambda tensor: tensor.movedim(-1, 1))


def _each(value: Any, count: int) -> tuple[Any, ...]:
    if isinstance(value, str):
        return (0,) * count if value == "valid" else (value,) * count
    given = (value,) if isinstance(value, int) else tuple(value)
    return given * count if len(given) == 1 else given


@rule("embedding")
def embedding(
    reader: Any, operation: Operation, first: Any, second: Any, padding_idx: Any = None, *options: Any, **_: Any
) -> Seen:
    if isinstance(first, Value) and first.tensor.is_floating_point():
        first, second = second, first  # torch.embedding has the table first
        padding_idx = None if padding_idx == -1 else padding_idx
    ids, table = first.tensor, second.tensor
    labels = ids.reshape(-1).clone()
    if padding_idx is not None:
        labels[labels == padding_idx % len(table)] = -1
    width = table.shape[-1]
    term = Table(labels.numel(), width, table, labels)
    return Seen(term, (Part(counted(labels.numel() * width).reshape(*ids.shape, width)),))


@rule("einsum")
def einsum(reader: Any, operation: Operation, equation: Any, *factors: Any) -> Any:
    """Two factors: as a matrix product of what they share."""
    given = list(factors[0]) if len(factors) == 1 and isinstance(factors[0], (tuple, list)) else list(factors)
    if not isinstance(equation, str) or len(given) != 2 or "->" not in equation or "." in equation:
        raise UndescribedError(f"einsum must be of two factors and say its result, and is {equation!r}")
    terms, result = equation.replace(" ", "").split("->")
    first, second = terms.split(",")
    if isinstance(given[0], Value):
        given, first, second = given[::-1], second, first
    summed = [name for name in first if name in second and name not in result]
    shared = [name for name in first if name in second and name in result]
    own, others = ([n for n in names if n not in summed + shared] for names in (first, second))
    if len(summed) != 1 or sorted(shared + own + others) != sorted(result) or (isinstance(given[1], Value) and shared):
        raise UndescribedError(f"einsum must be a matrix product, and is {equation!r}")
    left = _arranged(given[0], first, [*shared, *own, *summed])
    if isinstance(given[1], Value):
        if len(others) != 1:
            raise UndescribedError(f"einsum must be a matrix product, and is {equation!r}")
        found, names = projected(left, given[1].tensor, second.index(others[0])), [*own, *others]
        return _arranged(found, "".join(names), list(result))
    if len(own) != 1 or len(others) != 1:
        raise UndescribedError(f"einsum must be a matrix product, and is {equation!r}")
    found = product(left, _arranged(given[1], second, [*shared, *summed, *others]))
    names = [*shared, *own, *others]
    return found if names == list(result) else _arranged(found, "".join(names), list(result))


def _arranged(value: Any, names: str, order: list[str]) -> Any:
    places = [names.index(name) for name in order]
    if isinstance(value, Seen):
        return value.viewed(lambda tensor: tensor.permute(places))
    if isinstance(value, Scores) and places[-2:] == [len(places) - 2, len(places) - 1]:
        return value
    if isinstance(value, Scores) and not value.weights:
        raise UndescribedError("scores of attention must keep their tokens in the last two axes, and do not")
    if isinstance(value, Scores) and places == list(range(len(places))):
        return value
    raise UndescribedError("the factors of einsum must be values, and are not")
