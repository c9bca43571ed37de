"""What a study of converged trainings says: quality, stability and speed of every choice, apart from each other.

The words are those of ``docs/studies/plan.md``, which was written before the trainings.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from criticality.errors import ArgumentError
from criticality.sweeps.search import MARGIN, first_places, next_value
from criticality.sweeps.search import Outcome as Tried

__all__ = [
    "Choice",
    "Progress",
    "Result",
    "Trainings",
    "read_trainings",
]

SPEED_RATE, SPEED_WINDOW = 3e-4, 9
"""Speed is the training loss at this rate in this window of ten steps: 90 to 100."""

_CHOICE = (
    "task",
    "norm",
    "alpha",
    "prescription",
    "warm_up",
    "mlp_gain",
    "width",
    "activation",
    "schedule",
    "sigma_w",
    "sigma_b",
    "mu",
    "depth",
    "steps",
)
_NEEDED = ("validation_accuracy", "test_accuracy", "diverged", "largest_spike", "loss_series", "status", "norm")
_USUAL_CELLS = 6.5
"""Of a search: four rates, a neighbour or two of the best, and one or two that bisect (measured: 6 or 7)."""


@dataclass(frozen=True)
class Result:
    """What became of one choice.

    Attributes:
        quality: mean test accuracy at the rate of best mean validation accuracy.
        best_rate: that rate.
        log_stable: decimal logarithm of the largest rate at which every seed's validation accuracy is within 5 per cent of the best
            rate's mean.
        speed: mean training loss in steps 90 to 100 at rate 3e-4, ``nan`` where that was not run; less is faster.
        diverged: share of all runs, over rates and seeds, whose loss stopped being finite or ended above 1.5 log 10.
        spike: median over seeds of the largest excess of a step's loss over the ten before, at the best rate, in nats.
    """

    quality: float
    best_rate: float
    log_stable: float
    speed: float
    diverged: float
    spike: float


@dataclass(frozen=True)
class Choice:
    """All runs of one choice of norm, alpha and weights at one depth.

    Attributes:
        settings: parameters of the cell, without the rate.
        rates: those that were run, ascending, ``(rates,)``.
        cells: their places in the dataset.
        validation, test, diverged, spike, early_loss: of each run, ``(rates, seeds)``.
        ended: whether its search has ended, or all its rates are run.
    """

    settings: Mapping[str, Any]
    rates: np.ndarray
    cells: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    diverged: np.ndarray
    spike: np.ndarray
    early_loss: np.ndarray
    ended: bool

    @property
    def seeds(self) -> int:
        """Runs at each rate."""
        return self.validation.shape[1]

    @property
    def depth(self) -> int:
        """Residual layers."""
        return int(self.settings["depth"])

    @property
    def label(self) -> str:
        """``dyt 0.3``, ``dyt schedule 1``, ``ln``."""
        alpha = self.settings.get("alpha")
        kind = "schedule" if self.settings.get("schedule") else self.settings.get("prescription", "")
        name = f"{self.settings['norm']} {kind}".strip()
        return name if alpha is None else f"{name} {alpha:g}"

    @property
    def key(self) -> str:
        """Of the choice at its depth, whatever the rate and the number of steps."""
        return json.dumps({name: value for name, value in self.settings.items() if name != "steps"}, sort_keys=True)

    def result(self, seeds: Sequence[int] | None = None) -> Result:
        """Over all seeds, or those picked."""
        picked = list(range(self.seeds)) if seeds is None else list(seeds)
        validation = self.validation[:, picked]
        means = validation.mean(1)
        best = int(np.argmax(means))
        stable = np.flatnonzero(validation.min(1) >= (1 - MARGIN) * means[best])
        early = self.early_loss[np.isclose(self.rates, SPEED_RATE)]
        return Result(
            quality=float(self.test[best, picked].mean()),
            best_rate=float(self.rates[best]),
            log_stable=math.log10(self.rates[stable[-1] if stable.size else best]),
            speed=float(early[0, picked].mean()) if len(early) else math.nan,
            diverged=float(self.diverged[:, picked].mean()),
            spike=float(np.median(self.spike[best, picked])),
        )

    @cached_property
    def resamples(self) -> list[tuple[tuple[int, ...], int]]:
        """Every multiset of seeds that can be drawn with repetition, and in how many of the orders."""
        found: dict[tuple[int, ...], int] = {}
        for drawn in itertools.product(range(self.seeds), repeat=self.seeds):
            kept = tuple(sorted(drawn))
            found[kept] = found.get(kept, 0) + 1
        return list(found.items())


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        cells, of_cells: computed, and to be computed in all (estimated where searches are open).
        choices, of_choices: whose runs are all there, and in all.
    """

    cells: int
    of_cells: int
    choices: int
    of_choices: int

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.choices == self.of_choices

    def __str__(self) -> str:
        about = "" if self.complete else "about "
        return f"{self.cells} of {about}{self.of_cells} cells ({self.choices} of {self.of_choices} choices)"


@dataclass(frozen=True)
class Trainings:
    """A study of trainings: every choice of which something was run, and how far it is."""

    name: str
    data: xr.Dataset
    progress: Progress
    begun: list[Choice] = field(default_factory=list)

    @property
    def choices(self) -> list[Choice]:
        """Those whose runs are all there: nothing is read off the others."""
        return [choice for choice in self.begun if choice.ended]

    def log_apjn(self, choice: Choice) -> float:
        """``log J(0 -> L)`` of a choice at initialization, which no rate changes."""
        return float(self.data["log_apjn"].values[choice.cells[0]])


def read_trainings(data: xr.Dataset) -> Trainings:
    """Read a study of stacked trainings (``Store.dataset``).

    Raises:
        ValueError: a dataset that is not one of such trainings.
    """
    missing = [name for name in _NEEDED if name not in data]
    if missing or "study" not in data.attrs:
        raise ArgumentError(f"data must be a study of stacked trainings, and lacks {', '.join(missing) or 'its study'}")
    study = json.loads(data.attrs["study"])
    rates = [float(rate) for rate in study["grid"]["learning_rate"]]
    groups: dict[str, list[int]] = {}
    settings = [_settings(data, cell) for cell in range(data.sizes["cell"])]
    for cell, found in enumerate(settings):
        groups.setdefault(json.dumps(found, sort_keys=True), []).append(cell)
    begun = [
        _choice(data, settings[cells[0]], np.array(cells), rates, bool(study.get("search")))
        for cells in groups.values()
        if any(data.status.values[cell] != "open" for cell in cells)
    ]
    kept = [choice for choice in begun if choice is not None]
    return Trainings(study["name"], data, _progress(data, kept, len(groups), rates, bool(study.get("search"))), kept)


def _settings(data: xr.Dataset, cell: int) -> dict[str, Any]:
    """What is set in a cell; absent values (nan, empty) left out."""
    found: dict[str, Any] = {}
    for name in _CHOICE:
        value = data[name].values[cell] if name in data.coords else ""
        if isinstance(value, str) or value == "":
            if value:
                found[name] = str(value) if name != "schedule" else value == "True"
        elif not math.isnan(value):
            found[name] = int(value) if name in ("depth", "steps", "width", "warm_up") else float(value)
    return {name: value for name, value in found.items() if value is not False}


def _choice(
    data: xr.Dataset, settings: dict[str, Any], cells: np.ndarray, rates: list[float], search: bool
) -> Choice | None:
    """``None`` where every cell so far has failed."""
    status = data.status.values[cells]
    done = cells[status == "done"]
    if not done.size:
        return None
    tried = {
        place: Tried(tuple(data.validation_accuracy.values[cell]) if status[place] == "done" else ())
        for place, cell in enumerate(cells)
        if status[place] != "open"
    }
    ended = next_value(tried, first_places(rates), len(rates)) is None if search else len(tried) == len(cells)
    window = min(SPEED_WINDOW, data.loss_series.shape[-1] - 1)
    return Choice(
        settings=settings,
        rates=data.learning_rate.values[done],
        cells=done,
        validation=data.validation_accuracy.values[done],
        test=data.test_accuracy.values[done],
        diverged=data.diverged.values[done],
        spike=data.largest_spike.values[done],
        early_loss=data.loss_series.values[done][:, :, window].astype(float),
        ended=ended,
    )


def _progress(data: xr.Dataset, begun: list[Choice], groups: int, rates: list[float], search: bool) -> Progress:
    cells = int((data.status.values != "open").sum())
    ended = [choice for choice in begun if choice.ended]
    each = (
        float(np.mean([choice.rates.size for choice in ended])) if ended and search else min(_USUAL_CELLS, len(rates))
    )
    if not search:
        each = len(rates)
    still = sum(max(1.0, each - choice.rates.size) for choice in begun if not choice.ended)
    expected = cells + round(still + each * (groups - len(begun)))
    return Progress(cells, expected, len(ended), groups)


def __getattr__(name: str) -> Any:
    if name in ("PLANNED", "kept_trainings", "trainings_digest"):
        raise ImportError(
            f"{__name__}.{name} is no longer in the library: it is in examples/paper/kept.py of its repository"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
