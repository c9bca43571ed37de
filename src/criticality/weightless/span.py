"""The span of the rows of a product: a root of their Gram matrix, and orthonormal directions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-12
"""Added to the diagonal of the Gram matrix of unit rows: makes the root a smooth function of any rows, equal ones too."""
PIVOT = 1e-5
"""A row is in the span of the rows before it when less than this part of its length is outside."""
APART = 1e-2
"""Rows of which more than this part is outside need no double precision: single leaves 1e-7 of the square of a length."""
SQUARE = 32
"""Rows up to which a triangle is multiplied as a square."""


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
        """Of rows that are far from dependent in their own precision, of others in double precision.

        ``lengths`` are what "small" is measured by, the lengths of the rows unless they are remainders of longer ones.
        """
        precision = rows.dtype
        unit, scale = _scaled(rows, lengths)
        lower = _root_of_apart(unit)
        if lower is not None:
            lower = lower.to(rows.dtype)
            return cls(scale * lower, unit, lower)
        finite, rows = _finite(rows.double())
        unit, scale = _scaled(rows, lengths)
        lower, outside = _root_of_any(unit)
        directions = torch.linalg.solve_triangular(lower, unit, upper=False) * outside[:, None]
        root = (scale * lower * outside).masked_fill(~finite, torch.nan)
        return cls(root.to(precision), directions.to(precision))

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
    unit, scale = _scaled(rows, None)
    lower = _root_of_apart(unit)
    if lower is not None:
        return scale * lower.to(rows.dtype)
    precision = rows.dtype
    finite, rows = _finite(rows.double())
    unit, scale = _scaled(rows, None)
    lower, outside = _root_of_any(unit)
    return (scale * lower * outside).masked_fill(~finite, torch.nan).to(precision)


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


def _finite(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows are finite, as a column, and the rows with zeros in the place of others: nan stays in the row that has it."""
    finite = rows.isfinite().all(1, keepdim=True)
    return finite, torch.where(finite, rows, 0.0)


def _scaled(rows: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows at length 1, and the lengths as a column."""
    lengths = torch.linalg.vector_norm(rows, dim=1) if lengths is None else lengths
    scale = torch.where(lengths > 0, lengths, 1.0)[:, None]
    return rows / scale, scale


def _root_of_apart(unit: Tensor) -> Float[Tensor, "rows rows"] | None:
    """Of the Gram matrix in the precision of the rows; ``None`` where some are nearly in the span of others."""
    lower, failed = torch.linalg.cholesky_ex(_gram(unit).double())
    apart = int(failed) == 0 and bool((lower.diagonal() > APART).all())
    return lower if apart else None


def _root_of_any(unit: Tensor) -> tuple[Float[Tensor, "rows rows"], Float[Tensor, " rows"]]:
    """Of rows in double precision, and which of them are outside of the span of those before."""
    gram = _gram(unit)
    gram.diagonal().add_(RIDGE)
    lower = torch.linalg.cholesky_ex(gram)[0]
    return lower, lower.diagonal() > PIVOT


def _gram(rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows rows"]:
    """``rows @ rows.T``, its lower triangle; what is above may be zero."""
    if len(rows) <= SQUARE:
        return rows @ rows.mT
    found = rows.new_zeros(len(rows), len(rows))
    for start, stop in _quarters(len(rows)):
        torch.mm(rows[start:stop], rows[:stop].mT, out=found[start:stop, :stop])
    return found


def _quarters(count: int) -> list[tuple[int, int]]:
    cuts = [count * part // 4 for part in range(5)]
    return list(pairwise(cuts))
