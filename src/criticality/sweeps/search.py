"""Which value of a searched parameter, a learning rate, is computed next: around the best, and up to the largest that is stable."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from criticality.errors import ArgumentError
from criticality.sweeps.store import STATES, Store
from criticality.sweeps.study import Study

MARGIN = 0.05
"""A value is stable when the score of every run at it is within this share of the best value's mean score."""

SCORE = "validation_accuracy"
"""Of each run of a cell; what a search looks at, and never the test score."""


@dataclass(frozen=True)
class Outcome:
    """Scores ``(runs,)`` of a cell that was computed; empty when it failed."""

    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over runs, ``-inf`` when the cell failed."""
        return float(np.mean(self.scores)) if self.scores else -np.inf


def best_value(tried: Mapping[int, Outcome]) -> int:
    """Place of the value with the best mean score, the smallest of equals."""
    return max(sorted(tried), key=lambda place: tried[place].mean)


def is_stable(place: int, tried: Mapping[int, Outcome]) -> bool:
    """Whether every run at a value scores within ``MARGIN`` of the best value's mean."""
    limit = (1 - MARGIN) * tried[best_value(tried)].mean
    return bool(tried[place].scores) and min(tried[place].scores) >= limit


def next_value(tried: Mapping[int, Outcome], first: Sequence[int], count: int) -> int | None:
    """Place of the value to compute next, ``None`` when the search has ended.

    All of ``first`` are computed; then the neighbours of the best value so far, so that the best is inside what was tried; then the
    largest stable value is bisected for, between the largest that is known to be stable and the smallest above it that is not.

    Args:
        tried: what came out so far, by place in the ascending grid of ``count`` values.
        first: places that are computed in any case, in this order.
        count: values of the grid; what lies beyond its end counts as not stable.
    """
    for place in first:
        if place not in tried:
            return place
    best = best_value(tried)
    for place in (best + 1, best - 1):
        if 0 <= place < count and place not in tried:
            return place
    stable = max((place for place in tried if is_stable(place, tried)), default=best)
    above = min((place for place in tried if place > stable), default=count)
    middle = (stable + above) // 2
    return middle if middle > stable else None


FIRST = (3e-3, 1e-3, 1e-2, 3e-4)
"""Values that a search computes in any case, where the grid has them; else its middle."""


def first_places(values: Sequence[float]) -> list[int]:
    """Places of ``FIRST`` in an ascending grid."""
    found = [values.index(value) for value in FIRST if value in values]
    return found or [len(values) // 2]


def next_cell(study: Study, store: Store, tried: set[int], retry: bool, damaged: Collection[int] = ()) -> int | None:
    """Number of the cell to compute next, ``None`` when all is done; ``tried`` are those of this call."""
    status = store.status()
    again = [i for i, number in enumerate(status) if retry and (number > 1 or i in damaged) and i not in tried]
    if not study.search:
        return next((i for i, number in enumerate(status) if (number == 0 or i in again) and i not in tried), None)
    if again:
        return again[0]
    groups = choices_of(study, store.cells)
    values = [float(value) for value in study.grid[study.search]]
    scores = np.asarray(store.group[SCORE][:]) if SCORE in store.group else None
    for cells in groups:
        outcomes = {
            place: Outcome(
                tuple(scores[cell].ravel()) if status[cell] == STATES.index("done") and scores is not None else ()
            )
            for place, cell in enumerate(cells)
            if status[cell] > 0
        }
        place = next_value(outcomes, first_places(values), len(values))
        if place is not None and cells[place] not in tried:
            return cells[place]
    return None


def choices_of(study: Study, cells: Sequence[Mapping[str, object]]) -> list[list[int]]:
    """Cells that differ in the searched parameter only, ascending in it, in the order of the study.

    Raises:
        ValueError: a grid of the searched parameter that is not of ascending numbers (YAML reads 1e-3 as text: write 1.0e-3).
    """
    values = study.grid[study.search]
    numbers = all(isinstance(value, (int, float)) for value in values)
    if not numbers or any(low >= high for low, high in itertools.pairwise(values)):
        raise ArgumentError(f"grid {study.search!r} must be ascending numbers for a search, got {values!r}")
    found: dict[str, list[int]] = {}
    for index, cell in enumerate(cells):
        key = repr(sorted((name, value) for name, value in cell.items() if name != study.search))
        found.setdefault(key, []).append(index)
    return list(found.values())


def progress_of(study: Study, store: Store) -> tuple[int, int]:
    """How many choices have ended their search, and how many there are."""
    status, values = store.status(), [float(value) for value in study.grid[study.search]]
    scores = np.asarray(store.group[SCORE][:]) if SCORE in store.group else np.zeros((len(status), 0))
    ended = 0
    groups = choices_of(study, store.cells)
    for cells in groups:
        outcomes = {
            place: Outcome(tuple(scores[cell].ravel()) if status[cell] == 1 else ())
            for place, cell in enumerate(cells)
            if status[cell] > 0
        }
        ended += next_value(outcomes, first_places(values), len(values)) is None
    return ended, len(groups)
