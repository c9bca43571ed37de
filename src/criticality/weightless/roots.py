"""The random weights of one run: what is known of each, and the views under which a model uses them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from criticality.errors import UnknownLawError
from criticality.shapes import Float, Int
from criticality.weightless.law import Law
from criticality.weightless.numbers import entries, generator
from criticality.weightless.regions import Dims, Region, disjoint, merged
from criticality.weightless.revealed import LEFT, RIGHT, RevealedMatrix
from criticality.weightless.span import Span


class Block:
    """A region of a weight that is used on its own: the weight itself, one expert of many, one slice of a fused weight.

    Attributes:
        layout: the axes summed into the left and the right side of the matrix, from the first product.
        uses: forward products so far; from two on, gradients too have to agree with each other.
    """

    def __init__(self, region: Region, law: Law, seed: tuple[object, ...], like: Tensor) -> None:
        self.region, self.law, self.seed, self.like = region, law, (*seed, region), like
        self.layout: tuple[Dims, Dims] | None = None
        self.matrix: RevealedMatrix | None = None
        self.uses = 0

    def arrange(self, layout: tuple[Dims, Dims]) -> RevealedMatrix:
        """The block as a matrix; ``layout`` is taken if there is none so far."""
        if self.matrix is None or self.layout is None:
            left, right = (prod(size for size, _ in dims) for dims in layout)
            self.layout, self.matrix = layout, RevealedMatrix(self.law, (left, right), self.seed, self.like)
        return self.matrix

    def memory(self) -> Float[Tensor, " extent"]:
        """The block drawn, as the run of memory from its first entry to its last."""
        matrix = self.arrange((self.region.dims, ()))
        matrix.settle("law")
        drawn = matrix.draw()
        left, right = self.layout or (self.region.dims, ())
        sizes, strides = zip(*(left + right), strict=True) if left + right else ((), ())
        if merged(left + right) == left + right == ((self.region.count, 1),):
            return drawn.reshape(-1)
        if self.region.extent == self.region.count and list(strides) == sorted(strides, reverse=True):
            return drawn.reshape(-1)
        memory = drawn.new_zeros(self.region.extent)
        memory.as_strided(sizes, strides).copy_(drawn.reshape(sizes))
        return memory


class Root:
    """One random weight of a run.

    Args:
        weight: the tensor; only its shape, strides, precision and device are used.
        law: of its entries.
        seed: of its numbers.
        copied: another weight of the same shape and strides, of which this one is a multiple, and the factor.

    Raises:
        ValueError: the law is not known.
    """

    def __init__(
        self, weight: Tensor, law: Law, seed: tuple[object, ...], copied: tuple[Root, float] | None = None
    ) -> None:
        if not law.known:
            raise UnknownLawError(
                f"the law of a weight of shape {tuple(weight.shape)} is not known: some of its entries were never written"
            )
        self.weight, self.law, self.seed = weight, law, seed
        self.dtype, self.device = weight.dtype, weight.device
        self.shadow = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device="meta")
        self.like = torch.empty(0, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)
        self.blocks: dict[Region, Block] = {}
        self.whole = law.orthogonal
        self.copied = copied
        self.copies: list[Root] = []
        if copied is not None:
            copied[0].copies.append(self)

    def block(self, region: Region) -> Block | None:
        """What is known of a region; ``None`` where regions overlap and the weight is drawn as one."""
        if self.copied is not None:
            return self.copied[0].block(region)
        if self.whole:
            return None
        if region not in self.blocks:
            if region.repeats or not all(disjoint(region, other) for other in self.blocks):
                self.whole = True
                return None
            self.blocks[region] = Block(region, self.law, self.seed, self.like)
        return self.blocks[region]

    def scale(self, factor: float) -> bool:
        """Scale all entries by a number, unless something is known of them already; whether it was done."""
        if self.blocks or self.copied is not None or self.copies:
            return False
        self.law = self.law.scaled(factor)
        return True

    def real(self, view: Tensor) -> Tensor:
        """A (meta) view of the weight as a tensor of numbers: drawn anew, and the same, at each call."""
        region = Region.of(view)
        block = self.block(region)
        memory, start = (self.memory(), 0) if block is None else (block.memory(), region.offset)
        real = memory.as_strided(view.shape, view.stride(), view.storage_offset() - start).to(self.dtype)
        return real if block is None else self.scaled(real)

    def scaled(self, found: Tensor) -> Tensor:
        """What is linear in the weight and was computed with the one that this is a multiple of."""
        return found if self.copied is None else found * self.copied[1]

    def memory(self) -> Float[Tensor, " extent"]:
        """The whole weight drawn, in agreement with what is known of its blocks, as it lies in memory."""
        if self.copied is not None:
            return self.scaled(self.copied[0].memory())
        if self.law.orthogonal:
            memory = self._orthogonal()
        else:
            memory = entries(self.law, (Region.of(self.shadow).extent,), (*self.seed, "whole"), self.like)
        for region, block in self.blocks.items():
            sizes, strides = zip(*region.dims, strict=True) if region.dims else ((), ())
            memory.as_strided(sizes, strides, region.offset).copy_(block.memory().as_strided(sizes, strides))
        return memory

    def _orthogonal(self) -> Float[Tensor, " count"]:
        """Haar distributed, ``W W^T`` or ``W^T W`` proportional to the identity, with the law's second moment."""
        rows, columns = self.shadow.shape[0], self.shadow[0].numel()
        tall = (max(rows, columns), min(rows, columns))
        numbers = generator((*self.seed, "whole"), self.device)
        q, r = torch.linalg.qr(torch.randn(tall, generator=numbers, dtype=self.like.dtype, device=self.device))
        q = q * r.diagonal().sign() * (self.law.second_moment * tall[0]) ** 0.5
        return (q if rows >= columns else q.mT).reshape(-1)


@dataclass(frozen=True)
class Operand:
    """A view of a random weight as one factor of a product.

    Attributes:
        root: the weight.
        view: of it, on ``meta``.
        summed: axes of the view that the product sums over, in the order in which the other factor has them.
    """

    root: Root
    view: Tensor
    summed: tuple[int, ...]

    @property
    def free(self) -> tuple[int, ...]:
        """Axes of the view that are left, in the view's order."""
        return tuple(axis for axis in range(self.view.ndim) if axis not in self.summed)

    def __post_init__(self) -> None:
        if self.block is not None:
            self.block.arrange(self._layout()[0])

    @property
    def block(self) -> Block | None:
        """What is known of the view's region."""
        return self.root.block(Region.of(self.view))

    def use(self) -> None:
        """Count a forward product."""
        if self.block is not None:
            self.block.uses += 1

    def times(
        self, rows: Float[Tensor, "rows n"], *, back: bool = False, span: Span | None = None
    ) -> Float[Tensor, "rows m"]:
        """``rows`` times the view, summed over ``summed``; with ``back``, over ``free``.

        Both sides are flattened in the view's own order of memory, see ``order``.
        """
        block = self.block
        layout, side = self._layout()
        if block is not None and block.matrix is not None and block.layout == layout:
            keep = not back or block.uses > 1
            return self.root.scaled(block.matrix.times(rows, 1 - side if back else side, span, keep=keep))
        matrix = self.root.real(self.view).to(rows.dtype)
        matrix = matrix.permute(*self.order(self.summed), *self.order(self.free))
        matrix = matrix.reshape(prod(self.view.shape[axis] for axis in self.summed), -1)
        return rows @ (matrix.mT if back else matrix)

    def rows(self, indices: Int[Tensor, " rows"]) -> Float[Tensor, "rows m"]:
        """The entries at ``indices`` of the axis ``summed``; like a product with one-hot rows."""
        block = self.block
        layout, side = self._layout()
        if block is not None and block.matrix is not None and block.layout == layout:
            return self.root.scaled(block.matrix.rows(indices, side))
        return self.root.real(self.view).movedim(self.summed[0], 0)[indices].flatten(1)

    def fresh(self) -> bool:
        """Whether nothing is known along the axes summed: the product may share the span of its rows with others."""
        block, (layout, side) = self.block, self._layout()
        if block is None or block.matrix is None or block.layout != layout or block.matrix.drawn:
            return False
        return not len(block.matrix.sides[side])

    def order(self, axes: tuple[int, ...]) -> tuple[int, ...]:
        """Axes of the view in the order of memory."""
        return tuple(sorted(axes, key=lambda axis: -int(self.view.stride()[axis])))

    def _layout(self) -> tuple[tuple[Dims, Dims], int]:
        """The two sides as axes in memory, that of the larger stride first, and which of them is summed."""
        shape, stride = self.view.shape, self.view.stride()
        summed, free = (merged((shape[a], stride[a]) for a in axes) for axes in (self.summed, self.free))
        if free and (not summed or free[0][1] > summed[0][1]):
            return (free, summed), RIGHT
        return (summed, free), LEFT
