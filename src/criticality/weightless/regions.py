"""Where a view of a weight lies in the weight's memory: which entries it has, and whether two views share some."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from torch import Tensor

Dims = tuple[tuple[int, int], ...]
"""``(size, stride)`` of each axis, the largest stride first, neighbours that are one run of memory merged."""


def merged(dims: Iterable[tuple[int, int]]) -> Dims:
    """The axes ``(size, stride)`` in the order of memory, as few of them as there can be.

    >>> merged([(3, 1), (4, 3)]), merged([(4, 6), (3, 1)]), merged([(1, 7)])
    (((12, 1),), ((4, 6), (3, 1)), ())
    """
    found: list[tuple[int, int]] = []
    for size, stride in sorted((d for d in dims if d[0] != 1), key=lambda d: -d[1]):
        if found and found[-1][1] == size * stride:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return tuple(found)


@dataclass(frozen=True)
class Region:
    """Entries of a weight, as places in its memory: ``offset + sum_i index_i stride_i``."""

    offset: int
    dims: Dims

    @classmethod
    def of(cls, view: Tensor) -> Region:
        """The region of a (meta) view of a weight."""
        return cls(int(view.storage_offset()), merged(zip(view.shape, view.stride(), strict=True)))

    @property
    def count(self) -> int:
        """Number of entries."""
        return prod(size for size, _ in self.dims)

    @property
    def extent(self) -> int:
        """Length of the run of memory from the first entry to the last."""
        return 1 + sum((size - 1) * stride for size, stride in self.dims)

    @property
    def repeats(self) -> bool:
        """Whether two indices may be one entry (``expand``, overlapping windows)."""
        reach = 0
        for size, stride in reversed(self.dims):
            if stride <= reach:
                return True
            reach += (size - 1) * stride
        return False


def disjoint(one: Region, other: Region) -> bool:
    """Whether two regions have certainly no entry in common: runs apart, or different columns of the same rows.

    >>> rows = Region(0, ((8, 1),)), Region(8, ((8, 1),))
    >>> columns = Region(0, ((4, 4), (2, 1))), Region(2, ((4, 4), (2, 1)))
    >>> disjoint(*rows), disjoint(*columns), disjoint(rows[0], columns[1])
    (True, True, False)
    """
    if one.offset + one.extent <= other.offset or other.offset + other.extent <= one.offset:
        return True
    if not one.dims or not other.dims or one.dims[0][1] != other.dims[0][1]:
        return False
    pitch = one.dims[0][1]
    inner = [Region(r.offset % pitch, r.dims[1:]) for r in (one, other)]
    if any(r.offset + r.extent > pitch for r in inner):
        return False
    return disjoint(*inner)
