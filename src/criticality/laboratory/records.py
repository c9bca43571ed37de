"""What is measured on a stack of networks in training: profiles at geometric steps, and what one step changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from criticality.arguments import Count, checked
from criticality.laboratory.recursion import Stack

SATURATED = 0.01
"""A unit is saturated on an input when its squared slope is below this share of that at 0."""

WINDOW = 10
"""Steps that one stored loss averages."""

_PROFILES = ("log_apjn", "log_q", "log_slope", "saturated", "correlation")
_CHANGES = ("update", "stream_change", "gradient_norm")


@checked
def geometric_steps(steps: Count) -> list[int]:
    """0, 1, 3, 10, 30, 100, 300, ... below ``steps``, and ``steps``."""
    found, decade = [0], 1
    while decade < steps:
        found += [step for step in (decade, 3 * decade) if step < steps]
        decade *= 10
    return [*found, steps]


def window_means(losses: np.ndarray) -> np.ndarray:
    """Means of every ``WINDOW`` steps along the last axis, nan where the last window is not whole."""
    padded = np.concatenate([losses, np.full((*losses.shape[:-1], -losses.shape[-1] % WINDOW), np.nan)], axis=-1)
    found: np.ndarray = padded.reshape(*losses.shape[:-1], -1, WINDOW).mean(-1)
    return found


class Records:
    """Profiles of a stack and the changes of single steps, on fixed probes.

    Args:
        stack: in training.
        probes: inputs ``(runs, count, inputs)``.
        steps: where to record, the last one after training.
    """

    def __init__(self, stack: Stack, probes: Tensor, steps: Sequence[int]):
        self.stack, self.probes, self.steps = stack, probes, list(steps)
        self._at = {step: place for place, step in enumerate(self.steps)}
        runs, points = stack.shape.runs, stack.shape.depth + 1
        self._profiles = {name: np.full((runs, len(steps), points), np.nan, np.float32) for name in _PROFILES}
        self._changes = {name: np.full((runs, len(steps)), np.nan, np.float32) for name in _CHANGES}
        draw = torch.Generator().manual_seed(2024)
        size = (1, probes.shape[1], stack.shape.width)
        self._direction = torch.randn(size, generator=draw).to(stack.flat).expand(runs, -1, -1)

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Around the optimizer's step number ``step``: profiles before it, and what it changes, where it is to be recorded."""
        if step not in self._at:
            yield
            return
        place, stack = self._at[step], self.stack
        before = self.record(step)
        weights = stack.p["weight"].clone()
        norm = sum(g.transpose(0, g.dim() - 3).flatten(1).square().sum(1) for g in stack.g.values())
        self._changes["gradient_norm"][:, place] = torch.sqrt(torch.as_tensor(norm)).cpu().numpy()
        yield
        change = _norms(stack.p["weight"] - weights) / _norms(weights)
        self._changes["update"][:, place] = change.cpu().numpy()
        after = stack.stream(self.probes)[-1]
        moved = (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
        self._changes["stream_change"][:, place] = moved.cpu().numpy()

    def record(self, step: int) -> Tensor:
        """Measure now; returns the last point of the stream."""
        place, stack = self._at[step], self.stack
        points = stack.stream(self.probes, keep=True)
        deltas = stack.back_to_start(self._direction)
        slopes = [stack.slopes(layer, x) for layer, x in enumerate(points)]
        store = self._profiles
        for at, (x, delta, slope) in enumerate(zip(points, deltas, slopes, strict=True)):
            store["log_apjn"][:, place, at] = log_mean_square(delta)
            store["log_q"][:, place, at] = log_mean_square(x)
            store["log_slope"][:, place, at] = np.log(np.maximum(slope.double().mean((1, 2)).cpu().numpy(), 1e-30))
            store["saturated"][:, place, at] = (slope < SATURATED).double().mean((1, 2)).cpu().numpy()
            store["correlation"][:, place, at] = pair_correlation(x)
        return points[-1]

    def dataset(self) -> xr.Dataset:
        """Profiles over ``(run, record, point)`` and changes over ``(run, record)``.

        ``log_apjn`` is log J from here to the last point, over the probes; ``log_q`` log K; ``log_slope`` the log of
        ``E phi'^2 / phi'(0)^2``; ``saturated`` a share of units; ``correlation`` the mean cosine of two inputs.  ``update`` is the
        relative change of the weights by the step that follows, ``stream_change`` that of the last point.
        """
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
            name: (("run", "record", "point"), values) for name, values in self._profiles.items()
        }
        variables |= {name: (("run", "record"), values) for name, values in self._changes.items()}
        return xr.Dataset(variables, {"record": self.steps})


def pair_correlation(x: Tensor) -> np.ndarray:
    """Mean cosine of two different inputs, ``(runs,)``, of a stream ``(runs, inputs, width)``."""
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    count = x.shape[1]
    found: np.ndarray = ((unit.sum(1).square().sum(-1) - count) / (count * (count - 1))).cpu().numpy()
    return found


def _norms(weights: Tensor) -> Tensor:
    """Of ``(layers, runs, width, width)``, by run."""
    return weights.transpose(0, 1).flatten(1).norm(dim=1)


def log_mean_square(x: Tensor) -> np.ndarray:
    """Of ``(runs, inputs, width)``, by run."""
    found: np.ndarray = np.log(np.maximum(x.double().square().mean((1, 2)).cpu().numpy(), 1e-300))
    return found
