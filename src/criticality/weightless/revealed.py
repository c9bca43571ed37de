"""A random matrix that is known only along the directions that were asked for.

Let ``M (left, right)`` have independent Gaussian entries of variance ``v``.  A product ``X M^T`` with ``N`` rows asks for ``M``
along the span of the rows of ``X`` and nothing else.  With orthonormal directions ``Q (N, right)`` of that span,
``X = R Q``, the values ``V = Q M^T (N, left)`` are independent Gaussians of variance ``v``, whatever ``X`` is: ``X M^T = R V``
has the distribution of the product with a drawn matrix, exactly, at ``O(N^2 (left + right))`` in place of ``O(N left right)``
operations and without the matrix.  ``R`` is a Cholesky root of ``X X^T``.

What was told must stay true.  If ``M`` is known along ``Q`` on the right (``Q M^T = V``) and along ``P`` on the left
(``P M = U``), the rest of
it is as free as before (Bolthausen's conditioning)::

    M = V^T Q + P^T U (1 - Q^T Q) + (1 - P^T P) M' (1 - Q^T Q),      M' a fresh copy of M,

so that a gradient ``D M`` after the product ``X M^T``, the second use of a tied weight, or a table of embeddings
whose transpose is the
output layer get their exact joint distribution: no independence of forward and backward pass is assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from criticality.weightless.law import Law
from criticality.weightless.numbers import entries, normal, significant_mean

LEFT, RIGHT = 0, 1
RIDGE = 1e-12
"""Added to the diagonal of the Gram matrix of unit rows: makes the root a smooth function of any rows, equal ones too."""
PIVOT = 1e-5
"""A row is in the span of the rows before it when less than this part of its length is outside."""
NORMAL_COST = 100
"""What a normal number costs, in multiplications (measured: 3.7 ns against 1e11 multiplications a second)."""


@dataclass(frozen=True)
class Span:
    """Rows ``X = root @ directions``, the directions orthonormal (or zero, where a row lies in the span of others)."""

    root: Float[Tensor, "rows rows"]
    directions: Float[Tensor, "rows n"]

    @classmethod
    def of(cls, rows: Float[Tensor, "rows n"], lengths: Tensor | None = None) -> Span:
        """Of the rows; computed in double precision, returned in that of ``rows``.

        ``lengths (rows,)`` are what "small" is measured by, the lengths of the rows unless they are remainders of longer ones.
        """
        exact = rows.double()
        if lengths is None:
            lengths = torch.linalg.vector_norm(exact, dim=1)
        scale = torch.where(lengths > 0, lengths, 1.0)[:, None]
        unit = exact / scale
        gram = unit @ unit.mT
        gram.diagonal().add_(RIDGE)
        lower = torch.linalg.cholesky_ex(gram)[0]
        outside = lower.diagonal() > PIVOT
        directions = torch.linalg.solve_triangular(lower, unit, upper=False) * outside[:, None]
        return cls(scale * lower * outside, directions).to(rows.dtype)

    def to(self, dtype: torch.dtype) -> Span:
        """In another precision."""
        return Span(self.root.to(dtype), self.directions.to(dtype))


class Side:
    """What is known of a matrix along directions of one of its two sides: coordinates (rows of a table) and others.

    Attributes:
        units: coordinates whose values are known, ``(u,)``.
        directions: orthonormal directions, zero at ``units``, ``(k, n)``.
        values: the matrix along both, ``(u + k, m)``.
    """

    def __init__(self, length: int, other: int, like: Tensor) -> None:
        self.units: Int[Tensor, " u"] = torch.empty(0, dtype=torch.long, device=like.device)
        self.directions: Float[Tensor, "k n"] = like.new_empty(0, length)
        self.values: Float[Tensor, "uk m"] = like.new_empty(0, other)

    def __len__(self) -> int:
        return len(self.values)

    def coefficients(self, rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows uk"]:
        """The rows' components along what is known."""
        return torch.cat([rows[:, self.units], rows @ self.directions.mT.to(rows.dtype)], dim=1)

    def combination(self, coefficients: Float[Tensor, "rows uk"]) -> Float[Tensor, "rows n"]:
        """The rows that have these components and nothing else."""
        count = len(self.units)
        found = coefficients[:, count:] @ self.directions.to(coefficients.dtype)
        return found.index_copy(1, self.units, coefficients[:, :count])

    def refine(self) -> None:
        """Double precision from now on: what is left of further rows outside of what is known may be a small part of them."""
        if self.directions.dtype == torch.float64:
            return
        directions, values, count = self.directions.double(), self.values.double(), len(self.units)
        gram = directions @ directions.mT
        gram.diagonal()[gram.diagonal() == 0] = 1.0
        lower = torch.linalg.cholesky(gram)  # near 1: rounding left them not quite orthonormal
        self.directions = torch.linalg.solve_triangular(lower, directions, upper=False)
        along = torch.linalg.solve_triangular(lower, values[count:], upper=False)
        self.values = torch.cat([values[:count], along])

    def divided(self, rows: Float[Tensor, "rows n"]) -> tuple[Float[Tensor, "rows uk"], Float[Tensor, "rows n"]]:
        """The rows' components along what is known, and what is left of them, orthogonal to it."""
        first = self.coefficients(rows)
        left = rows - self.combination(first)
        second = self.coefficients(left)  # twice is enough (Kahan, Parlett)
        return first + second, left - self.combination(second)

    def learn(self, directions: Float[Tensor, "k n"], values: Float[Tensor, "k m"]) -> None:
        """Note the matrix along further directions."""
        self.directions = torch.cat([self.directions, directions])
        self.values = torch.cat([self.values, values])

    def learn_units(self, units: Int[Tensor, " u"], values: Float[Tensor, "u m"]) -> None:
        """Note the matrix along coordinates."""
        count = len(self.units)
        self.units = torch.cat([self.units, units])
        self.values = torch.cat([self.values[:count], values, self.values[count:]])


class RevealedMatrix:
    """A matrix ``M (left, right)`` of independent entries, revealed as far as products and look-ups have asked.

    Exact for Gaussian entries at any size; other laws enter by their mean and variance, right for sums over many entries.
    The numbers drawn depend on the seed and on the shapes asked for, not on values: the products are smooth functions of
    what is multiplied.

    Args:
        law: of the entries.
        shape: ``(left, right)``.
        seed: of everything that is drawn here; any hashable parts, see ``numbers.generator``.
        like: a tensor of the device and the precision to compute in.
    """

    def __init__(self, law: Law, shape: tuple[int, int], seed: tuple[object, ...], like: Tensor) -> None:
        self.law, self.shape, self.seed, self.like = law, shape, seed, like.new_empty(0)
        self.mean = significant_mean(law)
        self.std = sqrt(max(law.second_moment - self.mean**2, 0.0))
        self.sides = (Side(shape[0], shape[1], self.like), Side(shape[1], shape[0], self.like))
        self.drawn: str | None = None
        self.asked = 0

    def times(self, rows: Float[Tensor, "rows n"], side: int, span: Span | None = None, keep: bool = True) -> Tensor:
        """``rows @ M`` (``side = LEFT``) or ``rows @ M.T`` (``RIGHT``), ``(rows, other side)``.

        Args:
            rows: what to multiply, ``(rows, length of the side)``.
            side: which side of the matrix is summed over.
            span: of ``rows``, where the caller has it already.
            keep: whether later products have to agree with this one.
        """
        if self.drawn is None and not self._cheaper_revealed(len(rows), side):
            self.settle("normal")
        if self.drawn is not None:
            matrix = self.draw()
            return rows @ (matrix if side == LEFT else matrix.mT)
        told, across = self.sides[side], self.sides[1 - side]
        known = rows.sum(1, keepdim=True) * self.mean
        if self.std == 0 or not len(rows):
            return known.expand(-1, self.shape[1 - side])
        if len(told):
            told.refine()
            exact = rows.double()
            components, left = told.divided(exact)
            known = known + (components @ told.values).to(rows.dtype)
            span = Span.of(left, torch.linalg.vector_norm(exact, dim=1))
        elif span is None:
            span = Span.of(rows)
        values = self._free(span.directions, across)
        if keep:
            told.learn(span.directions, values)
        return (span.root.to(values.dtype) @ values).to(rows.dtype).add_(known)

    def _free(self, directions: Float[Tensor, "k n"], across: Side) -> Float[Tensor, "k m"]:
        """The matrix along new orthonormal directions, given what is known from the other side."""
        shape = (len(directions), across.directions.shape[1])
        self.asked += 1
        values = (self.std * normal(shape, (*self.seed, self.asked), self.like)).to(directions.dtype)
        if len(across):
            precision = torch.promote_types(directions.dtype, across.values.dtype)
            values, wanted = values.to(precision), directions.to(precision) @ across.values.to(precision).mT
            values += across.combination(wanted - across.coefficients(values))
        return values

    def rows(self, indices: Int[Tensor, " rows"], side: int = LEFT) -> Float[Tensor, "rows m"]:
        """Rows of ``M`` (columns, on the right), the same row for equal indices."""
        if self.drawn is not None:
            return self.draw()[indices] if side == LEFT else self.draw().mT[indices]
        told, across = self.sides[side], self.sides[1 - side]
        new = torch.unique(indices)
        new = new[~torch.isin(new, told.units)]
        if len(new):
            if len(told.directions) or len(across):
                self.settle("normal")
                return self.rows(indices, side)
            self.asked += 1
            values = entries(self.law, (len(new), self.shape[1 - side]), (*self.seed, self.asked), self.like)
            told.learn_units(new, values - self.mean)
        units, order = told.units.sort()
        return (told.values[order[torch.searchsorted(units, indices)]] + self.mean).to(self.like.dtype)

    def settle(self, how: str) -> None:
        """From now on draw the whole matrix where it is needed, always the same, in agreement with what is known.

        ``how`` is ``"normal"`` (fast) or ``"law"`` (each entry one of the law's sample); the first call decides.
        """
        self.drawn = self.drawn or ("normal" if len(self.sides[LEFT]) or len(self.sides[RIGHT]) else how)

    def draw(self) -> Float[Tensor, "left right"]:
        """The whole matrix; drawn anew, and the same, at each call after ``settle``."""
        if self.drawn == "law":
            return entries(self.law, self.shape, (*self.seed, "whole"), self.like)
        precision = torch.promote_types(self.sides[LEFT].values.dtype, self.sides[RIGHT].values.dtype)
        matrix = normal(self.shape, (*self.seed, "whole"), self.like).mul_(self.std).to(precision)
        for side, view in ((self.sides[RIGHT], matrix.mT), (self.sides[LEFT], matrix)):
            if len(side):
                count = len(side.units)
                directions = side.directions.to(precision)
                missing = side.values - torch.cat([view[side.units], directions @ view])
                view[side.units] += missing[:count]
                view += directions.mT @ missing[count:]
        return matrix.add_(self.mean).to(self.like.dtype)

    def _cheaper_revealed(self, count: int, side: int) -> bool:
        """Whether revealing costs fewer operations than drawing the matrix twice, forward and backward.

        With ``N`` rows, ``n`` summed over, ``m`` left: ``N^2 (6 n + 4 m) + c N (n + m)`` against ``2 (N + c) n m``,
        ``c = NORMAL_COST``;
        and there must be directions left to reveal.
        """
        n, m = self.shape[side], self.shape[1 - side]
        total = count + len(self.sides[side])
        revealed = total * count * (6 * n + 4 * m) + NORMAL_COST * count * (n + m)
        return total <= min(n, m) and revealed <= 2 * (count + NORMAL_COST) * n * m
