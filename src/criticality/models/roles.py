"""What the parameters of a small module do to its output: which is added, which scales."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from criticality.models.probing import Probe

TOLERANCE = 1e-3
"""Relative, of numbers in single precision after a few operations."""


@dataclass(frozen=True)
class Gain:
    """``factor (offset + w)``, by which an output is scaled; ``factor`` alone without a parameter.

    Attributes:
        parameter: name of ``w``.
        factor, offset: numbers; 1 and 0 for a plain weight, 1 and 1 for one that is kept as a difference from 1.
    """

    parameter: str | None
    factor: float = 1.0
    offset: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether the parameter is itself what scales."""
        return self.factor == 1.0 and self.offset == 0.0


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two outputs are the same but for rounding."""
    size = float(a.abs().max()) if a.numel() else 0.0
    return bool(torch.isfinite(a).all()) and bool(((a - b).abs() <= TOLERANCE * (b.abs() + 0.1 * size) + 1e-6).all())


def biases_of(probe: Probe, x: Tensor, other: Tensor) -> list[str]:
    """Parameters that are added to the output, whatever the input."""
    found = []
    for name, value in probe.values.items():
        zero = {name: torch.zeros_like(value)}
        step, again = probe(x) - probe(x, zero), probe(other) - probe(other, zero)
        size = float(value.abs().min())
        flat = agree(step, again) and float(step.abs().min()) > 0.5 * size
        if flat and agree(probe(x, {name: 2 * value}) - probe(x), step):
            found.append(name)
    return found


def effective_gain(
    probe: Probe,
    output: Callable[[dict[str, Tensor]], Tensor],
    unit: Tensor,
    axis: int,
    zero: dict[str, Tensor],
) -> Gain | None:
    """How ``unit`` is scaled to give the output; ``None`` when it is not, or by more than one parameter.

    Args:
        output: by changes of the parameters.
        zero: parameters that are set to 0 by it.
    """
    base = _scales(output({}), unit, axis)
    if base is None:
        return None
    acting = [
        name
        for name, value in probe.values.items()
        if name not in zero and not agree(output({name: torch.zeros_like(value)}), output({}))
    ]
    if not acting:
        return Gain(None, _near(float(base.mean()))) if agree(base, base.mean().expand_as(base)) else None
    name, value = acting[0], probe.values[acting[0]]
    without, twice = (_scales(output({name: factor * value}), unit, axis) for factor in (0.0, 2.0))
    if len(acting) > 1 or without is None or twice is None or not agree(twice - base, base - without):
        return None
    slope = (base - without) / value.flatten()
    factor = slope.mean()
    offset = without.mean() / factor
    if not agree(slope, factor.expand_as(slope)) or not agree(
        factor * (offset + value.flatten()).expand_as(base), base
    ):
        return None
    return Gain(name, _near(float(factor)), _near(float(offset)))


def _scales(output: Tensor, unit: Tensor, axis: int) -> Tensor | None:
    """By which each channel of ``unit`` is scaled, ``(channels,)``; ``None`` when the output is anything else."""
    output, unit = (tensor.movedim(axis, -1).flatten(0, -2) for tensor in (output, unit))
    scale = (output * unit).sum(0) / unit.square().sum(0)
    return scale if agree(unit * scale, output) else None


def _near(value: float) -> float:
    for number in (0.0, 1.0, -1.0):
        if abs(value - number) <= 1e-3:
            return number
    return value
