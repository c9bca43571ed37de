"""Rank correlations over choices of trainings, plain and partial, and what a predictor is worth where it was not fitted.

Intervals are of 95 per cent, from resampled choices and, within each, resampled seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from criticality.errors import ArgumentError
from criticality.studies.training import Choice

__all__ = [
    "LEAST",
    "Estimate",
    "Read",
    "Table",
    "correlation",
    "held_out",
    "partial_spearman",
    "spearman",
    "tabulate",
]

LEAST = 8
"""Choices that a correlation takes."""


@dataclass(frozen=True)
class Estimate:
    """A number read off a study and its 95 per cent interval, by resampling."""

    value: float
    low: float
    high: float
    choices: int


Read = Callable[[Choice, Sequence[int]], Mapping[str, float]]
"""A choice and the seeds that are picked, to numbers by name."""


@dataclass(frozen=True)
class Table:
    """Numbers of choices under every resampling of their seeds.

    Attributes:
        values: by name, ``(choices, resamplings)``; ``nan`` where a choice has no such number.
        weights: share of each resampling, ``(resamplings,)``.
        whole: by name, with the seeds as they are, ``(choices,)``.
    """

    values: Mapping[str, np.ndarray]
    weights: np.ndarray
    whole: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.whole.values()), ()))

    def defined(self, names: Sequence[str]) -> np.ndarray:
        """Places of the choices that have all of these numbers."""
        return np.flatnonzero(np.all([np.isfinite(self.whole[name]) for name in names], axis=0))


def tabulate(choices: Sequence[Choice], read: Read) -> Table:
    """Read every choice under every resampling of its seeds.

    Raises:
        ValueError: no choices, or of different numbers of seeds.
    """
    if len({choice.seeds for choice in choices}) != 1:
        raise ArgumentError(f"choices must be some, of equally many seeds, and are {len(choices)}")
    drawn = choices[0].resamples
    rows = [[read(choice, seeds) for seeds, _ in drawn] for choice in choices]
    whole = [read(choice, range(choice.seeds)) for choice in choices]
    counts = np.array([count for _, count in drawn], dtype=float)
    return Table(
        {name: np.array([[found[name] for found in row] for row in rows]) for name in whole[0]},
        counts / counts.sum(),
        {name: np.array([found[name] for found in whole]) for name in whole[0]},
    )


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlation along the last axis, mean ranks for ties; 0 where one side does not vary."""
    a, b = (rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2 for values in (x, y))
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.divide((a * b).sum(-1), scale, out=np.zeros(np.shape(scale)), where=scale > 0)


def partial_spearman(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Rank correlation of ``x`` and ``y`` at equal rank of ``given``; 0 where ``given`` leaves nothing of one of them.

    ``(r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2))`` with Spearman's r.
    """
    xy, xz, yz = spearman(x, y), spearman(x, given), spearman(y, given)
    left = np.sqrt(np.maximum((1 - xz**2) * (1 - yz**2), 0.0))
    return np.divide(xy - xz * yz, left, out=np.zeros(np.shape(left)), where=left > 1e-9)


def correlation(
    table: Table, predictor: str, target: str, given: str | None = None, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Spearman's of a predictor and a target over the choices that have both, or at equal ``given``.

    Raises:
        ValueError: fewer than ``LEAST`` choices have them.
    """
    names = [predictor, target, *([given] if given else [])]
    places = table.defined(names)
    if len(places) < LEAST:
        raise ArgumentError(f"{predictor!r} and {target!r} must be known of {LEAST} choices, and are of {len(places)}")

    def of(columns: Mapping[str, np.ndarray]) -> np.ndarray:
        if given:
            return partial_spearman(columns[predictor], columns[target], columns[given])
        return spearman(columns[predictor], columns[target])

    return _estimate(table, places, names, of, resamples, seed)


def held_out(
    fitted: Table, held: Table, predictor: str, target: str, *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Root mean square error on held-out choices of a line fitted to others, over that of predicting the mean of those others.

    Below 1 the predictor is worth something where it was not fitted; the line is of least squares.

    Raises:
        ValueError: fewer than ``LEAST`` choices on a side have both numbers.
    """
    names = [predictor, target]
    here, there = fitted.defined(names), held.defined(names)
    if min(len(here), len(there)) < LEAST:
        raise ArgumentError(
            f"{predictor!r} and {target!r} must be known of {LEAST} choices on both sides, and are of"
            f" {len(here)} and {len(there)}"
        )
    rng = np.random.default_rng(seed)
    drawn = [_draw(table, places, names, resamples, rng) for table, places in ((fitted, here), (held, there))]
    low, high = np.quantile(_ratio(drawn[0], drawn[1], predictor, target), [0.025, 0.975])
    whole = [{name: table.whole[name][places] for name in names} for table, places in ((fitted, here), (held, there))]
    value = float(_ratio(whole[0], whole[1], predictor, target))
    return Estimate(value, float(low), float(high), len(there))


def _ratio(here: Mapping[str, np.ndarray], there: Mapping[str, np.ndarray], x: str, y: str) -> np.ndarray:
    mean_x, mean_y = (here[name].mean(-1, keepdims=True) for name in (x, y))
    square = ((here[x] - mean_x) ** 2).sum(-1, keepdims=True)
    product = ((here[x] - mean_x) * (here[y] - mean_y)).sum(-1, keepdims=True)
    slope = np.divide(product, square, out=np.zeros(np.shape(square)), where=square > 0)
    error = there[y] - mean_y - slope * (there[x] - mean_x)
    base = np.sqrt(np.mean((there[y] - mean_y) ** 2, -1))
    found: np.ndarray = np.sqrt(np.mean(error**2, -1)) / np.maximum(base, 1e-12)
    return found


def _estimate(
    table: Table,
    places: np.ndarray,
    names: Sequence[str],
    of: Callable[[Mapping[str, np.ndarray]], np.ndarray],
    resamples: int,
    seed: int,
) -> Estimate:
    drawn = _draw(table, places, names, resamples, np.random.default_rng(seed))
    low, high = np.quantile(of(drawn), [0.025, 0.975])
    value = float(of({name: table.whole[name][places] for name in names}))
    return Estimate(value, float(low), float(high), len(places))


def _draw(
    table: Table, places: np.ndarray, names: Sequence[str], resamples: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Resampled choices, each with its seeds resampled, ``(resamples, choices)`` by name."""
    chosen = rng.choice(places, (resamples, len(places)))
    seeds = rng.choice(len(table.weights), chosen.shape, p=table.weights)
    return {name: table.values[name][chosen, seeds] for name in dict.fromkeys(names)}
