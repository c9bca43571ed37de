"""The law of a random weight: what its initialization draws each entry from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from criticality.weightless.entries import Origins


@dataclass(frozen=True, eq=False)
class Law:
    """The distribution of the entries of a weight, as a sample of them.

    Attributes:
        sample: independent entries, float64, ``(n,)``; a constant weight may have one.
        orthogonal: whether rows (or columns, the fewer of them) are orthogonal to each other.
        moments: ``(E W, E W^2)`` where they are known better than from the sample, which may be a part of many entries.
        origins: of a weight that is known by its law, what its entries were computed from.
        paired: whether the sample is of entries at the same places in every weight of one shape, so that the samples of
            two copies are equal.
    """

    sample: Float64[Tensor, " n"]
    orthogonal: bool = False
    moments: tuple[float, float] | None = None
    origins: Origins = frozenset()
    paired: bool = False

    @property
    def mean(self) -> float:
        """``E W``."""
        return float(self.sample.mean()) if self.moments is None else self.moments[0]

    @property
    def second_moment(self) -> float:
        """``E W^2``."""
        return float(self.sample.square().mean()) if self.moments is None else self.moments[1]

    @property
    def variance(self) -> float:
        """``E W^2 - (E W)^2``."""
        if self.moments is None:
            return float(self.sample.var(correction=0))
        return max(0.0, self.moments[1] - self.moments[0] ** 2)

    def scaled(self, factor: float) -> Law:
        """That of ``factor W``."""
        moments = self.moments and (factor * self.moments[0], factor**2 * self.moments[1])
        return replace(self, sample=factor * self.sample, moments=moments)

    @property
    def known(self) -> bool:
        """Whether the sample is finite: ``nan`` stands for an entry that was never written."""
        return bool(torch.isfinite(self.sample).all())
