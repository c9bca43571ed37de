"""What a random weight holds instead of its numbers: pieces of its memory, each with a distribution of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from criticality.errors import UnknownLawError
from criticality.weightless.drawing import draw_entries
from criticality.weightless.entries import Entries, Origins, overlap, player


class Piece(NamedTuple):
    """Consecutive entries of one distribution."""

    length: int
    entries: Entries


class Geometry(NamedTuple):
    """Where the entries of a view lie in the storage."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @staticmethod
    def of(tensor: Tensor) -> Geometry:
        return Geometry(tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    @property
    def numel(self) -> int:
        return torch.Size(self.size).numel()

    @property
    def contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.size), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def distinct(self) -> bool:
        """Whether no entry is shown twice (sufficient: strides nest)."""
        reach = 0
        for stride, size in sorted((t, s) for s, t in zip(self.size, self.stride, strict=True) if s > 1):
            if stride <= reach:
                return False
            reach += stride * (size - 1)
        return True

    @property
    def transposed(self) -> bool:
        return len(self.size) == 2 and self.stride == (1, self.size[0])


@dataclass(eq=False)
class Storage:
    """The entries of a random weight and of all its views.

    Attributes:
        numel: number of entries.
        dtype, device: those of the weight.
        pieces: their distributions, in the order of memory.
        real: the numbers, ``(numel,)``, once something could only be computed really; ``pieces`` then mean nothing.
    """

    numel: int
    dtype: torch.dtype
    device: torch.device
    pieces: list[Piece]
    real: Tensor | None = None

    def read(self, view: Geometry) -> list[Piece] | None:
        """Distributions of the view's entries, in row-major order of the view; ``None`` when pieces cannot say it."""
        if self.real is not None or not view.distinct:
            return None
        if view.contiguous:
            return self._between(view.offset, view.offset + view.numel)
        if len(self.pieces) > 1:
            return None
        entries = self.pieces[0].entries
        if entries.matrix is not None:
            if not view.transposed or view.numel != self.numel:
                return None
            entries = replace(entries, matrix=entries.matrix[::-1])
        return [Piece(view.numel, entries.reordered(view))]

    def _between(self, start: int, stop: int) -> list[Piece] | None:
        found: list[Piece] = []
        position = 0
        for length, entries in self.pieces:
            low, high = max(position, start), min(position + length, stop)
            if low < high:
                if high - low < length and entries.matrix is not None:
                    return None
                found.append(Piece(high - low, entries.part(low - position, high - low)))
            position += length
        return found

    def write(self, view: Geometry, pieces: Sequence[Piece]) -> bool:
        """Put distributions in place of those of the view's entries; false when pieces cannot say it."""
        if self.real is not None:
            return False
        whole = view.numel == self.numel and view.distinct
        if whole and len(pieces) == 1:
            (piece,) = pieces
            if piece.entries.matrix is not None and not view.contiguous:
                if not view.transposed:
                    return False
                piece = Piece(piece.length, replace(piece.entries, matrix=piece.entries.matrix[::-1]))
            self.pieces = [piece]
            return True
        if not view.contiguous:
            return False
        before, after = self._between(0, view.offset), self._between(view.offset + view.numel, self.numel)
        if before is None or after is None or not independent([*before, *after], pieces):
            return False
        self.pieces = merged([*before, *pieces, *after])
        return True

    def materialize(self, reason: str) -> Tensor:
        """The numbers, ``(numel,)``, drawn the first time that they are asked for; from then on they stay.

        Raises:
            UnknownLawError: more entries than the player may draw; ``reason`` names the operation.
        """
        if self.real is None:
            self._refuse(reason)
            real = torch.empty(self.numel, dtype=self.dtype, device=self.device)
            position = 0
            for length, entries in self.pieces:
                draw_entries(entries, real[position : position + length], player().generator_of(entries))
                position += length
            self.real = real
        return self.real

    def _refuse(self, reason: str) -> None:
        most = player().largest_real
        if most == 0:
            raise UnknownLawError(
                f"{reason} needs the numbers of a weight that is known by its law only; draw them with `weight.draw(generator)`"
            )
        if self.numel > most:
            raise UnknownLawError(
                f"{reason} cannot be followed on a sample of a weight's entries, and the weight's {self.numel:,} entries are"
                f" more than the {most:,} that are drawn really; initialize it by elementwise operations, or build it smaller"
            )


def independent(*several: Sequence[Piece]) -> bool:
    """Whether none was computed from what another was, as a copy is."""
    origins = [origins_of(pieces) for pieces in several]
    return not any(overlap(one, other) for one, other in itertools.combinations(origins, 2))


def origins_of(pieces: Sequence[Piece]) -> Origins:
    """Of all entries."""
    return frozenset().union(*(piece.entries.origins for piece in pieces))


def merged(pieces: Sequence[Piece]) -> list[Piece]:
    """Neighbours that share their sample become one piece."""
    found: list[Piece] = []
    for piece in pieces:
        if (
            found
            and found[-1].entries.values is piece.entries.values
            and not (piece.entries.matrix or found[-1].entries.matrix)
        ):
            origins = found[-1].entries.origins | piece.entries.origins
            found[-1] = Piece(found[-1].length + piece.length, replace(found[-1].entries, origins=origins))
        else:
            found.append(piece)
    return found


def aligned(operands: Sequence[Sequence[Piece]]) -> list[tuple[int, list[Entries]]]:
    """Several lists of pieces cut at the same places: ``(length, entries of each operand)`` of every part."""
    stops = sorted({stop for pieces in operands for stop in itertools.accumulate(p.length for p in pieces)})
    parts = []
    start = 0
    for stop in stops:
        parts.append((stop - start, [_at(pieces, start, stop - start) for pieces in operands]))
        start = stop
    return parts


def _at(pieces: Sequence[Piece], position: int, count: int) -> Entries:
    start = 0
    for length, entries in pieces:
        if position < start + length:
            return entries if count == length else replace(entries.part(position - start, count), matrix=None)
        start += length
    raise IndexError(position)
