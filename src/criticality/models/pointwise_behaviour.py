"""Pointwise norms of any author: which function, which of their parameters is alpha, shift, gain and bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from criticality.models.probing import Probe
from criticality.models.roles import Gain, agree, biases_of
from criticality.pointwise import FUNCTIONS, ZOO


@dataclass(frozen=True)
class Pointwise:
    """``gain phi(alpha x + shift) + bias``; see ``Behaviour``."""

    gain: Gain
    bias: str | None
    function: str | None
    alpha: str | float
    shift: str | None


def as_pointwise(probe: Probe, x: Tensor, axis: int) -> Pointwise | None:
    """What a module does entry by entry; ``None`` when it mixes entries, is linear, or is an activation.

    A norm has a gain or a bias of every channel, or an alpha and a bounded function; what has neither is an activation.
    """
    x = 1.5 * x
    other = 1.5 * probe.normal(x.shape)
    mask = probe.uniform(x.shape) < 0.5
    if not agree(probe(torch.where(mask, x, other)), torch.where(mask, probe(x), probe(other))):
        return None
    if agree(probe(x) + probe(other) - probe(torch.zeros_like(x)), probe(x + other)):
        return None
    biases = biases_of(probe, x, other)
    zero = {name: torch.zeros_like(probe.values[name]) for name in biases}
    roles = _Roles(probe, x, other, zero)
    gains = {name: gain for name in probe.values if name not in zero and (gain := roles.gain(name)) is not None}
    rest = [name for name in probe.values if name not in zero and name not in gains]
    alphas = [name for name in rest if roles.is_alpha(name)]
    shifts = [name for name in rest if name not in alphas and roles.is_shift(name, alphas)]
    vector = any(probe.values[name].numel() > 1 for name in (*gains, *biases))
    if not vector and not (alphas and _bounded(probe, x)):
        return None
    if len(biases) > 1 or len(gains) > 1:
        return None
    gain = next(iter(gains.values()), Gain(None))
    bias = next(iter(biases), None)
    if {*rest} != {*alphas, *shifts} or len(alphas) > 1 or len(shifts) > 1:
        return Pointwise(gain, bias, None, 1.0, None)
    function, alpha = _function(probe, gain, zero, alphas, shifts, x, axis)
    return Pointwise(gain, bias, function, alphas[0] if alphas else alpha, next(iter(shifts), None))


class _Roles:
    """Asks what one parameter does, biases taken away."""

    def __init__(self, probe: Probe, x: Tensor, other: Tensor, zero: dict[str, Tensor]):
        self.probe, self.x, self.other, self.zero = probe, x, other, zero

    def __call__(self, x: Tensor, name: str, value: Tensor) -> Tensor:
        return self.probe(x, {**self.zero, name: value})

    def gain(self, name: str) -> Gain | None:
        """``offset`` is read off where the output would be 0, which must be the same for every input."""
        value = self.probe.values[name]
        nothing, once, twice = (self(self.x, name, factor * value) for factor in (0.0, 1.0, 2.0))
        if not agree(twice - once, once - nothing) or agree(once, nothing):
            return None
        if agree(nothing, torch.zeros_like(nothing)):
            return Gain(name)
        one = torch.ones_like(value)
        unit = self(self.x, name, one) - nothing  # of a weight that is kept as a difference from 1: the output at 0
        return Gain(name, 1.0, 1.0) if agree(unit, nothing) else None

    def is_alpha(self, name: str) -> bool:
        """Whether it scales the input: twice as much does what an input twice as large does."""
        value = self.probe.values[name]
        same = agree(self(self.x, name, 2 * value), self(2 * self.x, name, value))
        return same and not agree(self(self.x, name, 2 * value), self(self.x, name, value))

    def is_shift(self, name: str, alphas: list[str]) -> bool:
        """Whether it is added to the input, after alpha."""
        if any(self.probe.values[alpha].numel() > 1 for alpha in alphas):
            return False
        alpha = float(self.probe.values[alphas[0]].flatten()[0]) if alphas else 1.0
        value = self.probe.values[name]
        if value.numel() > 1:
            return False
        moved = self.x + value.flatten() / alpha
        return agree(self(self.x, name, value), self(moved, name, torch.zeros_like(value)))


def _bounded(probe: Probe, x: Tensor) -> bool:
    far = 1e3 * torch.sign(x) + 1e3 * x
    return agree(probe(far), probe(10 * far))


def _function(
    probe: Probe, gain: Gain, zero: dict[str, Tensor], alphas: list[str], shifts: list[str], x: Tensor, axis: int
) -> tuple[str | None, float]:
    """The built-in function that has these values, and the alpha that is not a parameter."""
    plain = dict(zero)
    plain |= {name: torch.ones_like(probe.values[name]) for name in alphas}
    plain |= {name: torch.zeros_like(probe.values[name]) for name in shifts}
    if gain.parameter is not None:
        plain[gain.parameter] = torch.full_like(probe.values[gain.parameter], 1 - gain.offset)
    grid = torch.linspace(-4.0, 4.0, x.numel()).view(x.shape)
    values, step = probe(grid, plain).double().numpy(), torch.full_like(grid, 1e-2)
    rise = float((probe(step, plain) - probe(-step, plain)).double().mean() / 2e-2)
    at = grid.double().numpy()
    for name, function in {**FUNCTIONS, **ZOO}.items():
        flat = float(function.derivative(np.zeros(1))[0])
        alpha = 1.0 if alphas or flat == 0.0 else rise / flat
        if alpha > 0 and np.allclose(values, function.value(alpha * at), rtol=1e-3, atol=1e-4):
            return name, 1.0 if abs(alpha - 1) < 1e-3 else alpha
    return None, 1.0
