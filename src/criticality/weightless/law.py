"""The law of a random weight: what its initialization draws each entry from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Law:
    """The distribution of the entries of a weight, as a sample of them.

    Attributes:
        sample: independent entries, float64, ``(n,)``; a constant weight may have one.
        orthogonal: whether rows (or columns, the fewer of them) are orthogonal to each other.
    """

    sample: Float64[Tensor, " n"]
    orthogonal: bool = False

    @property
    def mean(self) -> float:
        """``E W``, from the sample."""
        return float(self.sample.mean())

    @property
    def second_moment(self) -> float:
        """``E W^2``, from the sample."""
        return float(self.sample.square().mean())

    @property
    def variance(self) -> float:
        """``E W^2 - (E W)^2``, from the sample."""
        return float(self.sample.var(correction=0))

    @property
    def known(self) -> bool:
        """Whether the sample is finite: ``nan`` stands for an entry that was never written."""
        return bool(torch.isfinite(self.sample).all())
