"""The law of a random weight: what its initialization draws each entry from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from criticality.shapes import Float64
from criticality.weightless.entries import Origins, in_order


@dataclass(frozen=True, eq=False)
class Law:
    """The distribution of the entries of a weight, as a sample of them.

    Attributes:
        values: independent entries, float64, ``(n,)``; a constant weight may have one, and weights of one law may share them.
        orthogonal: whether rows (or columns, the fewer of them) are orthogonal to each other.
        moments: ``(E W, E W^2)`` where they are known better than from the sample, which may be a part of many entries.
        origins: of a weight that is known by its law, what its entries were computed from.
        paired: whether the sample is of entries at the same places in every weight of one shape, so that the samples of
            two copies are equal.
        order: of the sample (``in_order``).
    """

    values: Float64[Tensor, " n"]
    orthogonal: bool = False
    moments: tuple[float, float] | None = None
    origins: Origins = frozenset()
    paired: bool = False
    order: int = 0

    @property
    def sample(self) -> Float64[Tensor, " n"]:
        """The values in the weight's own order, so that those of two weights are independent of each other."""
        return in_order(self.values, self.order)

    @property
    def mean(self) -> float:
        """``E W``."""
        return _summary(self.values).mean if self.moments is None else self.moments[0]

    @property
    def second_moment(self) -> float:
        """``E W^2``."""
        return _summary(self.values).second_moment if self.moments is None else self.moments[1]

    @property
    def variance(self) -> float:
        """``E W^2 - (E W)^2``."""
        if self.moments is None:
            return _summary(self.values).variance
        return max(0.0, self.moments[1] - self.moments[0] ** 2)

    def scaled(self, factor: float) -> Law:
        """That of ``factor W``."""
        moments = self.moments and (factor * self.moments[0], factor**2 * self.moments[1])
        return replace(self, values=factor * self.values, moments=moments)

    @property
    def known(self) -> bool:
        """Whether the sample is finite: ``nan`` stands for an entry that was never written."""
        return _summary(self.values).finite


class _Summary(NamedTuple):
    mean: float
    second_moment: float
    variance: float
    finite: bool


_SUMMARIES = WeakIdKeyDictionary()


def _summary(values: Tensor) -> _Summary:
    """Of a sample, which many weights share and nothing changes: computed once as long as it lives."""
    if values not in _SUMMARIES:
        _SUMMARIES[values] = _Summary(
            float(values.mean()),
            float(values.square().mean()),
            float(values.var(correction=0)),
            bool(torch.isfinite(values).all()),
        )
    found: _Summary = _SUMMARIES[values]
    return found
