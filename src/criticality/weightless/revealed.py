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
from torch import Tensor

from criticality.shapes import Float, Int
from criticality.weightless.law import Law
from criticality.weightless.numbers import entries, normal, significant_mean
from criticality.weightless.span import EQUAL, Span, root_of, triangle_times

LEFT, RIGHT = 0, 1
NORMAL_COST = 70
"""What a random number costs, in multiplications of a matrix product (measured: 2 ns against 3.5e10 a second, one core)."""


@dataclass(frozen=True)
class Drawn:
    """Independent normal numbers that are drawn anew, and the same, whenever they are asked for."""

    shape: tuple[int, int]
    std: float
    seed: tuple[object, ...]
    like: Tensor

    def numbers(self) -> Float[Tensor, "k m"]:
        """The numbers, which nothing keeps."""
        return normal(self.shape, self.seed, self.like, self.std)


class Side:
    """What is known of a matrix along directions of one of its two sides: coordinates (rows of a table) and others.

    What each product asked for is a span of its own, orthogonal to all before.  As long as it is the only one, the seed of its
    numbers stands for them: most weights are used once.

    Attributes:
        length: number of coordinates.
        units: those whose values are known, ``(u,)``.
        exact: whether spans and values are in double precision.
    """

    def __init__(self, length: int, other: int, like: Tensor) -> None:
        self.units: Int[Tensor, " u"] = torch.empty(0, dtype=torch.long, device=like.device)
        self._of_units: Float[Tensor, "u m"] = like.new_empty(0, other)
        self._spans: list[tuple[Span, Drawn | Float[Tensor, "k m"]]] = []
        self.length, self.exact = length, False

    def __len__(self) -> int:
        return len(self.units) + sum(len(span) for span, _ in self._spans)

    @property
    def only_units(self) -> bool:
        """Whether nothing but coordinates is known."""
        return not self._spans

    @property
    def directions(self) -> Float[Tensor, "k n"]:
        """Orthonormal directions, zero at ``units``."""
        return torch.cat([self._of_units.new_empty(0, self.length), *(span.directions for span, _ in self._spans)])

    @property
    def values(self) -> Float[Tensor, "uk m"]:
        """The matrix along both, units first; what a seed stands for is drawn and not kept."""
        found = [_numbers(values) for _, values in self._spans]
        return torch.cat([self._of_units, *found]) if len(self.units) or len(found) != 1 else found[0]

    def coefficients(self, rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows uk"]:
        """The rows' components along what is known."""
        found = [span.components(rows) for span, _ in self._spans]
        return torch.cat([rows[:, self.units], *found], dim=1) if len(self.units) or len(found) != 1 else found[0]

    def combination(
        self, coefficients: Float[Tensor, "rows uk"], onto: Float[Tensor, "rows n"] | None = None
    ) -> Float[Tensor, "rows n"]:
        """The rows that have these components and nothing else, or these added to ``onto``, in its memory."""
        along_units, *along = coefficients.split([len(self.units), *(len(span) for span, _ in self._spans)], dim=1)
        if onto is None and len(along) != 1:
            onto = coefficients.new_zeros(len(coefficients), self.length)
        for (span, _), part in zip(self._spans, along, strict=True):
            onto = span.combination(part, onto)
        assert onto is not None
        return onto.index_add_(1, self.units, along_units.to(onto.dtype)) if len(self.units) else onto

    @property
    def precision(self) -> torch.dtype:
        """In which the values are known."""
        found = self._of_units.dtype
        for _, values in self._spans:
            found = torch.promote_types(found, self._of_units.dtype if isinstance(values, Drawn) else values.dtype)
        return found

    def along_values(self, rows: Float[Tensor, "rows m"]) -> Float[Tensor, "rows uk"]:
        """``rows @ values.T``."""
        found = [rows @ _numbers(values).mT.to(rows.dtype) for _, values in self._spans]
        return (
            torch.cat([rows @ self._of_units.mT.to(rows.dtype), *found], dim=1)
            if len(self.units) or len(found) != 1
            else found[0]
        )

    def times_values(self, coefficients: Float[Tensor, "rows uk"]) -> Float[Tensor, "rows m"]:
        """``coefficients @ values``."""
        along_units, *along = coefficients.split([len(self.units), *(len(span) for span, _ in self._spans)], dim=1)
        found = along_units @ self._of_units.to(coefficients.dtype)
        for (_, values), part in zip(self._spans, along, strict=True):
            found.addmm_(part, _numbers(values).to(coefficients.dtype))
        return found

    def refine(self) -> None:
        """Double precision from now on: what is left of further rows outside of what is known may be a small part of them."""
        if self.exact:
            return
        directions, values, count = self.directions.double(), self.values.double(), len(self.units)
        gram = directions @ directions.mT
        gram.diagonal()[gram.diagonal() == 0] = 1.0
        lower = torch.linalg.cholesky(gram)  # near 1: rounding left them not quite orthonormal
        directions = torch.linalg.solve_triangular(lower, directions, upper=False)
        along = torch.linalg.solve_triangular(lower, values[count:], upper=False)
        self._of_units, self.exact = values[:count], True
        self._spans = [(Span(lower, directions), along)] if len(directions) else []

    def divided(self, rows: Float[Tensor, "rows n"]) -> tuple[Float[Tensor, "rows uk"], Float[Tensor, "rows n"]]:
        """The rows' components along what is known, and what is left of them, orthogonal to it."""
        first = self.coefficients(rows)
        left = rows - self.combination(first)
        second = self.coefficients(left)  # twice is enough (Kahan, Parlett)
        return first + second, left.sub_(self.combination(second))

    def learn(self, span: Span, values: Drawn | Float[Tensor, "k m"]) -> None:
        """Note the matrix along the directions of a span, orthogonal to those that are known."""
        self._spans = [(known, _numbers(numbers)) for known, numbers in self._spans]
        self._spans.append((span, _numbers(values) if self._spans else values))

    def learn_units(self, units: Int[Tensor, " u"], values: Float[Tensor, "u m"]) -> None:
        """Note the matrix along coordinates."""
        self._of_units = torch.cat([self._of_units, values.to(self._of_units.dtype)])
        self.units = torch.cat([self.units, units])


def _numbers(values: Drawn | Tensor) -> Tensor:
    return values.numbers() if isinstance(values, Drawn) else values


class RevealedMatrix:
    """A matrix ``M (left, right)`` of independent entries, revealed as far as products and look-ups have asked.

    Exact for Gaussian entries at any size (on the CPU as 16,384 quantiles); other laws enter by their mean and variance, right
    for sums over many entries.
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
        if self.std == 0 or not len(rows):
            return self._of_mean(rows).expand(-1, self.shape[1 - side])
        if len(told):
            components, span = _outside(told, rows)
            values, _ = self._free(span, across)
            found = told.times_values(components.to(values.dtype)).addmm_(span.root.to(values.dtype), values)
            told.learn(span, values)
        elif keep:
            span = span or Span.of(rows)
            place = rows.new_empty(
                len(rows), self.shape[1 - side]
            )  # before what is drawn, which would leave a hole behind
            values, drawn = self._free(span, across)
            found = triangle_times(span.root, values, place)
            told.learn(span, drawn or values)
        else:
            found = self._once(rows, across)
        found = found.to(rows.dtype)
        return found.add_(self._of_mean(rows)) if self.mean else found

    def _of_mean(self, rows: Float[Tensor, "rows n"]) -> Float[Tensor, "rows 1"]:
        """Product with a matrix all of whose entries are the mean."""
        return rows.sum(1, keepdim=True) * self.mean

    def _draw(self, count: int, across: Side) -> Drawn:
        """Numbers for ``count`` directions, from a seed of their own."""
        self.asked += 1
        return Drawn((count, across.length), self.std, (*self.seed, self.asked), self.like)

    def _free(self, span: Span, across: Side) -> tuple[Float[Tensor, "k m"], Drawn | None]:
        """The matrix along new orthonormal directions, given what is known from the other side; as drawn, where nothing is."""
        drawn = self._draw(len(span), across)
        values = drawn.numbers().to(span.basis.dtype)
        if not len(across):
            return values, drawn if values.dtype == self.like.dtype else None
        precision = torch.promote_types(span.basis.dtype, across.precision)
        values, wanted = values.to(precision), across.along_values(span.directions.to(precision))
        return across.combination(wanted - across.coefficients(values), values), None

    def _once(self, rows: Float[Tensor, "rows n"], across: Side) -> Float[Tensor, "rows m"]:
        """A product that no later one has to agree with: directions of its rows are not needed, their root is."""
        root, place = root_of(rows), rows.new_empty(len(rows), across.length)
        numbers = self._draw(len(rows), across).numbers()
        found = triangle_times(root, numbers, place)
        if len(across):
            precision = torch.promote_types(rows.dtype, across.precision)
            missing = across.along_values(rows.to(precision))
            missing -= root.to(precision) @ across.coefficients(numbers.to(precision))
            across.combination(missing, found)
        return found

    def rows(self, indices: Int[Tensor, " rows"], side: int = LEFT) -> Float[Tensor, "rows m"]:
        """Rows of ``M`` (columns, on the right), the same row for equal indices."""
        if self.drawn is not None:
            return self.draw()[indices] if side == LEFT else self.draw().mT[indices]
        told, across = self.sides[side], self.sides[1 - side]
        new = torch.unique(indices)
        new = new[~torch.isin(new, told.units)]
        if len(new):
            if not told.only_units or len(across):
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
        precision = torch.promote_types(self.sides[LEFT].precision, self.sides[RIGHT].precision)
        matrix = normal(self.shape, (*self.seed, "whole"), self.like, self.std).to(precision)
        for side, view in ((self.sides[RIGHT], matrix.mT), (self.sides[LEFT], matrix)):
            if len(side):
                count = len(side.units)
                directions = side.directions.to(precision)
                missing = side.values - torch.cat([view[side.units], directions @ view])
                view[side.units] += missing[:count]
                view += directions.mT @ missing[count:]
        return matrix.add_(self.mean).to(self.like.dtype)

    def _cheaper_revealed(self, count: int, side: int) -> bool:
        """Whether there are directions left to reveal, and it costs fewer operations than drawing the matrix twice, forward and
        backward.

        With ``N`` rows, ``n`` summed over, ``m`` left: ``N^2 (13 n + 9 m) / 4 + 2 N^3 + c N (n + 2 m)`` against
        ``2 (N + c) n m``, ``c = NORMAL_COST``; where directions are known already, they count as rows do, in double precision,
        and a matrix that is drawn has to agree with each of them: two products, in double precision, at every draw.
        A matrix that was revealed forward is revealed backward.
        """
        n, m = self.shape[side], self.shape[1 - side]
        known = len(self.sides[side])
        total = count + known
        if total > min(n, m) or (len(self.sides[1 - side]) and not known):
            return total <= min(n, m)
        revealed = total * count * ((13 * n + 9 * m) / 4 + 2 * total) * (2 if known else 1)
        revealed += NORMAL_COST * count * (n + 2 * m)
        return revealed <= 2 * (count + NORMAL_COST + 4 * known) * n * m


def _outside(told: Side, rows: Float[Tensor, "rows n"]) -> tuple[Float[Tensor, "rows uk"], Span]:
    """The components of rows along what is known, and the span of what is left of them: in the precision of the rows as long
    as that holds what is left.
    """
    if not told.exact:
        components, left = told.divided(rows)
        lengths, whole = (torch.linalg.vector_norm(one, dim=1) for one in (left, rows))
        if bool((lengths > EQUAL * whole).all()):
            return components, Span.of(left)
        told.refine()
    exact = rows.double()
    components, left = told.divided(exact)
    return components, Span.of(left, torch.linalg.vector_norm(exact, dim=1))
