"""What is known of a value: random fields over tokens and channels, and which of their entries a tensor holds.

A field (``Term``) has ``rows`` tokens of ``channels`` entries each, numbered row by row; entries of one row are alike.  A
tensor (``Seen``) holds sums of entries with coefficients, so that views, rotations and gains are followed entry by entry,
however they are written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.entrywise import Entrywise, Function
from criticality.reader.moments import Bias, Weight


@dataclass(frozen=True, eq=False)
class Term:
    """A field of ``rows`` tokens with ``channels`` entries each."""

    rows: int
    channels: int


@dataclass(frozen=True, eq=False)
class Stream(Term):
    """The residual stream where a sub-layer begins."""


@dataclass(frozen=True, eq=False)
class Given(Term):
    """Numbers that do not depend on weights: an input, or a table of positions."""

    numbers: Tensor


@dataclass(frozen=True, eq=False)
class Table(Term):
    """Entries of a parameter as they are: rows ``labels`` of it, equal labels being the same row; -1 is a row of zeros."""

    weight: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Joined(Term):
    """Rows of several fields after one another, each with a factor."""

    parts: tuple[tuple[float, Term], ...]


@dataclass(frozen=True, eq=False)
class Picked(Term):
    """Rows of a field, some of them several times."""

    inner: Term
    tokens: Tensor


@dataclass(frozen=True, eq=False)
class Normalized(Term):
    """``gamma x / size(x) + beta`` over groups of ``group`` channels."""

    inner: Term
    epsilon: float
    centred: bool
    group: int
    gamma: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True, eq=False)
class Centred(Term):
    """Groups of channels from which their mean was taken."""

    inner: Term
    group: int


@dataclass(frozen=True, eq=False)
class Projected(Term):
    """A linear map of each token."""

    inner: Term
    weight: Weight
    bias: tuple[Bias, ...] = ()


@dataclass(frozen=True, eq=False)
class Applied(Term):
    """A function of each entry, with ``gamma`` and ``beta`` of each channel."""

    inner: Term
    function: Entrywise
    gamma: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True, eq=False)
class Gated(Term):
    """Products of two fields, entry by entry."""

    left: Seen
    right: Seen


@dataclass(frozen=True, eq=False)
class Mixed(Term):
    """Values ``(..., tokens, channels)`` averaged by attention, the heads along the first axes."""

    scores: Scores
    value: Seen


@dataclass(frozen=True, eq=False)
class Sum(Term):
    """Fields with factors, added."""

    parts: tuple[tuple[float, Term], ...]


@dataclass(frozen=True, eq=False)
class Moment(Term):
    """Of each row or group of channels of ``of`` one number: ``factor`` times the mean of the entries to a power, 1 or 2, and a
    function of it."""

    of: Seen
    power: int
    factor: float
    group: int


@dataclass(frozen=True, eq=False)
class Scores:
    """``scale q k^T`` of queries ``(..., tokens, channels)`` and keys ``(..., others, channels)``, where ``allowed``; with
    ``weights`` their softmax over the other tokens."""

    query: Seen
    key: Seen
    scale: float = 1.0
    allowed: Tensor | None = None
    weights: bool = False

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.query.shape[:-1], self.key.shape[-2]))


@dataclass(frozen=True, eq=False)
class Part:
    """Entries ``index`` of a field, each with a coefficient: a number, or a tensor of the same shape."""

    index: Tensor
    coefficient: float | Tensor = 1.0

    def viewed(self, view: Callable[[Tensor], Tensor]) -> Part:
        coefficient = self.coefficient
        return Part(view(self.index), view(coefficient) if isinstance(coefficient, Tensor) else coefficient)


@dataclass(frozen=True, eq=False)
class Seen:
    """A tensor: sums of entries of a field with coefficients."""

    base: Term
    parts: tuple[Part, ...]

    @property
    def shape(self) -> torch.Size:
        return self.parts[0].index.shape

    def viewed(self, view: Callable[[Tensor], Tensor]) -> Seen:
        return Seen(self.base, tuple(part.viewed(view) for part in self.parts))

    def times(self, factor: float | Tensor) -> Seen:
        """Every entry times a number, or times the entries of a tensor that can be broadcast to the shape."""
        seen = self
        if isinstance(factor, Tensor):
            if factor.numel() == 1:
                factor = float(factor)
            else:
                shape = torch.broadcast_shapes(factor.shape, seen.shape)
                seen = seen if shape == seen.shape else seen.viewed(lambda one: one.expand(shape))
                factor = factor.double().expand(shape)
        return Seen(seen.base, tuple(Part(part.index, part.coefficient * factor) for part in seen.parts))


def whole(term: Term, shape: tuple[int, ...] | torch.Size | None = None) -> Seen:
    """All entries of a field, in order, as a tensor of the shape."""
    shape = (term.rows, term.channels) if shape is None else tuple(shape)
    if prod(shape) != term.rows * term.channels:
        raise UndescribedError(f"a value of shape {tuple(shape)} is no field of {term.rows} tokens of {term.channels}")
    return Seen(term, (Part(counted(term.rows * term.channels).reshape(shape)),))


def counted(entries: int) -> Tensor:
    """Their numbers from 0 on, in four bytes each where these hold them."""
    return torch.arange(entries, dtype=whole_numbers(entries))


def channels_of(tokens: Tensor, rows: int, channels: int) -> Tensor:
    """Entries ``(..., channels)`` of the tokens ``(...)`` of a field."""
    numbers = whole_numbers(rows * channels)
    return tokens.to(numbers)[..., None] * channels + torch.arange(channels, dtype=numbers)


def whole_numbers(entries: int) -> torch.dtype:
    """That hold the numbers of as many entries."""
    return torch.int32 if entries < 2**31 else torch.int64


def is_plain(seen: Seen) -> bool:
    """Whether a tensor holds every entry of its field once, in order."""
    if len(seen.parts) != 1:
        return False
    index = seen.parts[0].index
    size = seen.base.rows * seen.base.channels
    return index.numel() == size and bool((index.reshape(-1) == counted(size)).all())


def same_entries(one: Seen, other: Seen) -> bool:
    """Whether two tensors hold entries of the same numbers, each one of a field."""
    if len(one.parts) != 1 or len(other.parts) != 1:
        return False
    a, b = one.parts[0].index, other.parts[0].index
    return a is b or (a.shape == b.shape and bool((a == b).all()))


def gain_of(coefficient: float | Tensor) -> float:
    """Root mean square of coefficients; with its sign where they are all alike.

    Raises:
        UndescribedError: coefficients that differ between tokens.
    """
    if not isinstance(coefficient, Tensor):
        return float(coefficient)
    flat = coefficient.reshape(-1, coefficient.shape[-1])
    first = flat[0]
    if not bool((flat == first).all()):
        if bool((flat == flat[:, :1]).all()):
            raise UndescribedError(
                "a factor of the stream must be the same for every token, and one differs between tokens"
            )
        raise UndescribedError("channels must be scaled alike in every token, and are not")
    if bool((first == first[0]).all()):
        return float(first[0])
    return float(first.square().mean().sqrt())


def closed(seen: Seen) -> tuple[float, Seen]:
    """A tensor of single entries with its coefficients as one factor.

    Raises:
        UndescribedError: its entries are sums, such as rotated channels.
    """
    if len(seen.parts) != 1:
        raise UndescribedError("rotated channels must enter the scores of attention, and do otherwise")
    (part,) = seen.parts
    base, factor = seen.base, gain_of(part.coefficient)
    if factor != 1.0 and isinstance(base, (Normalized, Applied)) and base.beta == 0.0:
        base, factor = replace(base, gamma=base.gamma * factor), 1.0
    return factor, Seen(base, (Part(part.index),))


def tokens_of(seen: Seen) -> Tensor:
    """Of a tensor whose last axis are channels of one token, other ones for each head perhaps: the tokens ``(...)``.

    Raises:
        UndescribedError: the last axis holds entries of several tokens.
    """
    index = seen.parts[0].index // seen.base.channels
    if not bool((index == index[..., :1]).all()):
        raise UndescribedError("the last axis of a value must be channels of one token, and is not")
    return index[..., 0]


def rows_of(seen: Seen) -> tuple[Tensor, Tensor]:
    """Of a tensor whose last axis are channels of one token: the tokens ``(...)`` and the channels ``(n,)``.

    Raises:
        UndescribedError: the last axis holds entries of several tokens, or other channels for some.
    """
    index = seen.parts[0].index
    count = seen.base.channels
    tokens, channels = index[..., 0] // count, index.reshape(-1, index.shape[-1])[0] % count
    if not bool((index == tokens[..., None] * count + channels).all()):
        raise UndescribedError("the last axis of a value must be channels of one token, and is not")
    return tokens, channels


def root_of(seen: Seen) -> tuple[Term, Entrywise]:
    """A tensor of single entries as a function of the entries of a field that is no such function itself.

    Raises:
        UndescribedError: sums of entries, or channels that are scaled differently.
    """
    if len(seen.parts) != 1:
        raise UndescribedError("rotated channels must enter the scores of attention, and do otherwise")
    coefficient, base = seen.parts[0].coefficient, seen.base
    if isinstance(coefficient, Tensor) and not bool((coefficient == coefficient.reshape(-1)[0]).all()):
        factor, inner = closed(seen)
        return inner.base, Entrywise().affine(factor)
    factor = float(coefficient.reshape(-1)[0]) if isinstance(coefficient, Tensor) else coefficient
    if isinstance(base, Applied) and base.gamma == 1.0 and base.beta == 0.0:
        return base.inner, base.function.affine(factor)
    return base, Entrywise().affine(factor)


def composed(seen: Seen, core: Function, name: str | None = None) -> Seen:
    """The tensor of a function of each entry; ``name`` where it is a built-in one.

    Raises:
        UndescribedError: as ``root_of``.
    """
    root, before = root_of(seen)
    return applied(seen, root, before.then(core, name))


def applied(seen: Seen, root: Term, function: Entrywise) -> Seen:
    """The tensor of a function of the entries that another one holds."""
    base = Applied(root.rows, root.channels, root, function) if function.core or function.shift else root
    coefficient = function.alpha if base is root else 1.0
    return Seen(base, (Part(seen.parts[0].index, coefficient),))
