"""The span of the rows of a product: a root of their Gram matrix, and orthonormal directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from criticality.shapes import Bool, Float

RIDGE = 1e-12
"""Added to the diagonal of the Gram matrix of unit rows: makes the root a smooth function of any rows, equal ones too."""
PIVOT = 1e-5
"""A row is in the span of the rows before it when less than this part of its length is outside."""
APART = 1e-2
"""Rows of which more than this part is outside need no double precision: single leaves 1e-7 of the square of a length."""
CLOSE = 0.9
"""Rows whose cosines with the first are above this are told from one another by what is left of them outside of it."""
EQUAL = 1e-4
"""Rows of which less than this part is left: single precision does not hold what tells them apart."""
TINY = 1e-12
"""Between this and its inverse lengths have squares, and products of entries, that single precision holds."""
SQUARE = 32
"""Rows up to which a triangle is multiplied as a square."""
COLUMNS = 2048
"""Columns of rows that are held in double precision at a time."""
WHOLE = 8
"""Matrix products are fastest on multiples of as many rows: a tenth faster at 48 than at 49."""


@dataclass(frozen=True, eq=False)
class Span:
    """Rows ``X = root @ directions``, the directions orthonormal (or zero, where a row lies in the span of others).

    Attributes:
        root: lower triangular, ``root @ root.T = X @ X.T``.
        basis: rows that span the same space: the directions, or the rows of ``X`` at length 1.
        lower: of rows at length 1, ``basis = lower @ directions``; ``None`` where ``basis`` are the directions.
    """

    root: Float[Tensor, "rows rows"]
    basis: Float[Tensor, "rows n"]
    lower: Float[Tensor, "rows rows"] | None = None

    @classmethod
    def of(cls, rows: Float[Tensor, "rows n"], lengths: Float[Tensor, " rows"] | None = None) -> Span:
        """Of rows that are far from dependent, or close to one and far from dependent in what is left of them, in their own
        precision; of others in double precision.

        ``lengths`` are what "small" is measured by, the lengths of the rows unless they are remainders of longer ones.
        """
        scale = _scale(rows, lengths)
        unit = rows / scale
        around = None if lengths is not None else _around_the_first(unit)
        basis = unit if around is None else around[1]
        lower = _root_of_apart(_gram(basis))
        if lower is not None:
            lower = lower.to(rows.dtype)
            return cls(scale * (lower if around is None else around[0](lower)), basis, lower)
        del unit, around, basis
        place = rows.new_empty(rows.shape)  # before what is in double precision, which would leave holes behind
        exact = _Exact.of(rows, lengths)
        return cls(exact.root.to(rows.dtype), exact.directions(place))

    def __len__(self) -> int:
        return len(self.root)

    @property
    def directions(self) -> Float[Tensor, "rows n"]:
        """Orthonormal, or zero."""
        if self.lower is None:
            return self.basis
        return torch.linalg.solve_triangular(self.lower, self.basis, upper=False)

    def components(self, rows: Float[Tensor, "m n"]) -> Float[Tensor, "m rows"]:
        """``rows @ directions.T``."""
        found = rows @ self.basis.mT.to(rows.dtype)
        if self.lower is None:
            return found
        return torch.linalg.solve_triangular(self.lower.mT.to(rows.dtype), found, upper=True, left=False)

    def combination(
        self, components: Float[Tensor, "m rows"], onto: Float[Tensor, "m n"] | None = None
    ) -> Float[Tensor, "m n"]:
        """``components @ directions``, or that added to ``onto``, in its memory."""
        if self.lower is not None:
            lower = self.lower.to(components.dtype)
            components = torch.linalg.solve_triangular(lower, components, upper=False, left=False)
        basis = self.basis.to(components.dtype)
        if onto is None:
            return components @ basis
        return onto.addmm_(components, basis) if onto.dtype == basis.dtype else onto.add_(components @ basis)


def root_of(rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows rows"]:
    """Lower triangular ``root`` with ``root @ root.T = rows @ rows.T``; cheaper than the span."""
    scale = _scale(rows, None)
    squares_hold = float(scale.min()) > TINY and float(scale.max()) < 1 / TINY
    lower = _root_of_apart(_gram(rows).div_(scale).div_(scale.mT) if squares_hold else _gram(rows / scale))
    return scale * lower.to(rows.dtype) if lower is not None else _Exact.of(rows, None).root.to(rows.dtype)


def triangle_times(
    lower: Float[Tensor, "rows rows"], values: Float[Tensor, "rows m"], place: Float[Tensor, "rows m"]
) -> Float[Tensor, "rows m"]:
    """``lower @ values`` of a lower triangular matrix, at 5/8 of the operations where there are many rows.

    Written to ``place``, where the precisions are one.
    """
    if not lower.dtype == values.dtype == place.dtype:
        precision = torch.promote_types(lower.dtype, values.dtype)
        return lower.to(precision) @ values.to(precision)
    if len(lower) <= SQUARE:
        return torch.mm(lower, values, out=place)
    for start, stop in _quarters(len(lower)):
        torch.mm(lower[start:stop, :stop], values[:stop], out=place[start:stop])
    return place


@dataclass(frozen=True, eq=False)
class _Exact:
    """Rows that may be in the span of others, in double precision; nan stays in the row that has it.

    Attributes:
        rows: in their own precision, zeros in the place of those that are not finite.
        scale: their lengths, or what "small" is measured by, as a column.
        lower: root of the Gram matrix of ``rows / scale``.
        outside: which rows are not in the span of those before.
        finite: which rows are, as a column.
    """

    rows: Float[Tensor, "rows n"]
    scale: Float[Tensor, "rows 1"]
    lower: Float[Tensor, "rows rows"]
    outside: Bool[Tensor, " rows"]
    finite: Bool[Tensor, "rows 1"]

    @classmethod
    def of(cls, rows: Tensor, lengths: Tensor | None) -> _Exact:
        own = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        finite = own.isfinite()[:, None]
        rows = rows if bool(finite.all()) else torch.where(finite, rows, 0.0)
        scale = _scale(rows, torch.where(finite[:, 0], own, 0.0) if lengths is None else lengths)
        gram = torch.stack([_gram(part.double()) for part in rows.split(COLUMNS, dim=1)]).sum(0) / scale / scale.mT
        gram.diagonal().add_(RIDGE)
        lower = torch.linalg.cholesky_ex(gram)[0]
        return cls(rows, scale, lower, lower.diagonal() > PIVOT, finite)

    @property
    def root(self) -> Float[Tensor, "rows rows"]:
        return (self.scale * self.lower * self.outside).masked_fill(~self.finite, torch.nan)

    def directions(self, place: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
        """Written to ``place``."""
        inverse = torch.linalg.solve_triangular(self.lower, torch.diag(1 / self.scale.flatten()), upper=False)
        inverse = self.outside[:, None] * inverse
        for part, found in zip(self.rows.split(COLUMNS, dim=1), place.split(COLUMNS, dim=1), strict=True):
            exact = part.double()
            found.copy_(triangle_times(inverse, exact, torch.empty_like(exact)))
        return place


def _scale(rows: Tensor, lengths: Tensor | None) -> Tensor:
    """Lengths of rows, by default their own, as a column; 1 for one that is 0."""
    lengths = torch.linalg.vector_norm(rows, dim=1) if lengths is None else lengths
    return torch.where(lengths > 0, lengths, 1.0)[:, None]


def _around_the_first(
    unit: Float[Tensor, "rows n"],
) -> tuple[Callable[[Tensor], Tensor], Float[Tensor, "rows n"]] | None:
    """Of rows at length 1 that are close to the first, such as what attention has averaged: what is left of each outside
    of it, at length 1, and what makes the root of the rows from that of these; ``None`` of others, also of equal ones.
    """
    first = unit[:1]
    along = unit @ first.mT
    if not len(unit) or not bool((along > CLOSE).all()):
        return None
    rest = torch.addmm(unit, along, first, alpha=-1)
    again = rest @ first.mT  # twice is enough
    rest = rest.addmm_(again, first, alpha=-1)
    sizes = torch.linalg.vector_norm(rest, dim=1, keepdim=True)
    sizes[0] = 1.0
    if float(sizes.min()) < EQUAL:
        return None
    rest = rest.div_(sizes)
    rest[0], sizes[0], along = first[0], 0.0, along + again

    def root(lower: Tensor) -> Tensor:
        found = sizes * lower
        found[:, :1] += along
        return found

    return root, rest


def _root_of_apart(gram: Tensor) -> Float[Tensor, "rows rows"] | None:
    """Of the Gram matrix of rows at length 1; ``None`` where some are nearly in the span of others."""
    lower, failed = torch.linalg.cholesky_ex(gram.double())
    apart = int(failed) == 0 and bool((lower.diagonal() > APART).all())
    return lower if apart else None


def _gram(rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows rows"]:
    """``rows @ rows.T``, its lower triangle; what is above may be zero."""
    if len(rows) <= SQUARE:
        return rows @ rows.mT
    found = rows.new_zeros(len(rows), len(rows))
    for start, stop in _quarters(len(rows)):
        torch.mm(rows[start:stop], rows[:stop].mT, out=found[start:stop, :stop])
    return found


def _quarters(count: int) -> list[tuple[int, int]]:
    cuts = [count * part // 4 // WHOLE * WHOLE for part in range(4)]
    return list(pairwise([*cuts, count]))
