"""Second moments of the weights and biases of a projection, of all its channels or of some."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from criticality.errors import UndescribedError
from criticality.reader.shadow import Shadow
from criticality.weightless.laws import law_of, mean_square
from criticality.weightless.weight import RandomWeight


@dataclass(frozen=True, eq=False)
class Weight:
    """A matrix of which the axis ``outputs`` counts the channels that come out; the others, ``fan_in`` entries, are summed."""

    tensor: Tensor
    outputs: int
    fan_in: int
    factor: float = 1.0

    def variance(self, channels: Tensor | None = None) -> float:
        """``fan_in E W^2``, of the channels that are named or of all."""
        return self.fan_in * self.factor**2 * second_moment(self.tensor, self.outputs, channels)


@dataclass(frozen=True, eq=False)
class Bias:
    """A vector that is added to the channels."""

    tensor: Tensor
    factor: float = 1.0

    def variance(self, channels: Tensor | None = None) -> float:
        """``E b^2``."""
        return self.factor**2 * second_moment(self.tensor, 0, channels)


def second_moment(tensor: Tensor, axis: int = 0, channels: Tensor | None = None) -> float:
    """Mean square of the entries, of the places ``channels`` along an axis or of all; of a random weight by its law.

    Raises:
        UndescribedError: a weight that is computed from others, or whose parts have laws that are not known apart.
    """
    if isinstance(tensor, Shadow):
        raise UndescribedError("a weight must be a parameter or a view of one, and is computed from random ones")
    if channels is not None and len(channels) == tensor.shape[axis]:
        channels = None
    if isinstance(tensor, RandomWeight):
        return _of_law(tensor, axis, channels)
    numbers = tensor.detach()
    if channels is not None:
        numbers = numbers.index_select(axis, channels)
    return mean_square(numbers)


def _of_law(weight: RandomWeight, axis: int, channels: Tensor | None) -> float:
    pieces = weight.pieces()
    if pieces is not None and len(pieces) == 1:
        values = pieces[0].entries.values
        key = id(values)
        if key not in _MOMENTS or _MOMENTS[key][0] is not values:
            if len(_MOMENTS) > 256:
                _MOMENTS.clear()
            _MOMENTS[key] = (values, float(values.double().square().mean()))
        return _known(_MOMENTS[key][1], weight)
    if channels is None:
        return _known(law_of(weight).second_moment, weight)
    if axis not in (0, -weight.ndim):
        raise UndescribedError("the parts of a fused weight must be rows where their laws differ, and are columns")
    counts = torch.zeros(weight.shape[0] + 1, dtype=torch.int64)
    counts[1:] = torch.bincount(channels, minlength=weight.shape[0]).cumsum(0)
    total = sum(
        float(counts[region.stop] - counts[region.start]) * region.law.second_moment for region in weight.regions
    )
    return _known(total / len(channels), weight)


def _known(moment: float, weight: Tensor) -> float:
    if moment != moment:
        raise UndescribedError(f"the law of a weight of shape {tuple(weight.shape)} must be known, and is not")
    return moment


_MOMENTS: dict[int, tuple[Tensor, float]] = {}
