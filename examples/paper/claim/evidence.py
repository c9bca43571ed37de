"""What converged trainings say of log J at initialization, by the rules of docs/studies/plan.md.

Nothing is decided before the studies of the plan are complete; what is read before is said to be of N of M cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from claim.drawing import Data
from claim.outcome import Outcome, Verdict
from criticality.errors import ArgumentError
from criticality.reports import COLOURS, MARKERS
from criticality.studies.association import LEAST, Estimate, Table, correlation, held_out, spearman, tabulate
from criticality.studies.predictors import Predictors
from criticality.studies.training import Choice, Progress, Trainings

AT_32, AT_16, HELD = ("factorial_32", "families_32"), ("factorial_16",), ("factorial_64",)
"""What the hypotheses are read on; repeated at; and the depth that is held out."""

TASK = "vit_alpha"
"""Study C's choices at searched rates: the held-out task."""

LONG = "long_32"
"""Half of the choices for twice the steps."""

Studies = Mapping[str, Trainings]


def borne_out(found: Mapping[str, Estimate]) -> bool:
    """Seen at depth 32, repeated at 16 and on the held-out task, and worth something at the depth that is held out."""
    below = [found[name].high < 0 if name in found else False for name in ("depth 32", "depth 16", "held-out task")]
    return all(below) and found["error at depth 64"].value < 1


def decided(
    asked: str,
    progress: Progress,
    found: Mapping[str, Estimate],
    good: bool,
    said: str = "",
    numbers: Mapping[str, float] | None = None,
) -> Outcome:
    verdict: Verdict = "fails"
    if found["depth 32"].high < 0:
        verdict = "holds" if good else "holds with limits"
    task = "" if "held-out task" in found else " The held-out task is not trained yet."
    return Outcome(
        verdict,
        f"{asked}; {progress}; FashionMNIST, 1,500 steps (docs/studies/training.md).",
        _said(found) + said + task,
        _numbers(found) | dict(numbers or {}),
        {"estimates": {name: asdict(value) for name, value in found.items()}},
    )


def table_of(studies: Sequence[Trainings], measured: Mapping[str, xr.Dataset] | None = None) -> Table:
    """Predictors and outcomes of all choices of some studies whose runs are all there.

    Args:
        studies: of trainings.
        measured: by name of the study, one of ``compute: initial`` with its choices.
    """
    of_study = {id(study): Predictors(study, (measured or {}).get(study.name)) for study in studies}
    predictors = {choice.key: of_study[id(study)] for study in studies for choice in study.choices}

    def read(choice: Choice, seeds: Sequence[int]) -> dict[str, float]:
        result = asdict(choice.result(seeds))
        return predictors[choice.key].read(choice, seeds) | result

    return tabulate([choice for study in studies for choice in study.choices], read)


def progress_of(studies: Studies, names: Sequence[str]) -> Progress:
    """Of several studies together; what is not begun counts as planned."""
    parts = [studies[name].progress if name in studies else PLAN[name] for name in names]
    return Progress(*(sum(getattr(part, name) for part in parts) for name in Progress.__dataclass_fields__))


PLAN = {
    "factorial_32": Progress(0, 182, 0, 28),
    "factorial_16": Progress(0, 182, 0, 28),
    "factorial_64": Progress(0, 182, 0, 28),
    "families_32": Progress(0, 221, 0, 34),
    "long_32": Progress(0, 42, 0, 14),
    TASK: Progress(0, 72, 0, 11),
}
"""Choices of the study files, and cells at 6.5 a search."""


def converged(short: Trainings, long: Trainings) -> float:
    """Rank correlation of the quality of the same choices after the steps of both, at the rates that both have.

    Raises:
        ValueError: fewer than three choices in both.
    """
    after = {choice.key: choice for choice in long.choices}
    pairs = [(choice, after[choice.key]) for choice in short.choices if choice.key in after]
    if len(pairs) < 3:
        raise ArgumentError(f"studies must have three choices in common, and have {len(pairs)}")
    first, second = (np.array([pair[side].result().quality for pair in pairs]) for side in (0, 1))
    return float(spearman(first, second))


def evidence_of(studies: Studies, target: str, seed: int) -> dict[str, Estimate]:
    """The correlation at depths 32, 16, 64, and the error at depth 64 over that of the mean of the others."""
    tables = {
        depth: table_of([studies[name] for name in names]) for depth, names in ((32, AT_32), (16, AT_16), (64, HELD))
    }
    found = {f"depth {depth}": correlation(table, "log_apjn", target, seed=seed) for depth, table in tables.items()}
    fitted = table_of([studies[name] for name in (*AT_32, *AT_16)])
    found["error at depth 64"] = held_out(fitted, tables[64], "log_apjn", target, seed=seed)
    if TASK in studies and studies[TASK].progress.complete:
        found["held-out task"] = correlation(table_of([studies[TASK]]), "log_apjn", target, seed=seed)
    return found


def undecided(asked: str, open_: Progress, studies: Studies, target: str) -> Outcome:
    said, numbers = "", {"cells": float(open_.cells), "of_cells": float(open_.of_cells)}
    begun = [studies[name] for name in AT_32 if name in studies and studies[name].choices]
    if sum(len(study.choices) for study in begun) >= LEAST:
        so_far = correlation(table_of(begun), "log_apjn", target)
        said = f" So far, at depth 32: ρ = {_shown(so_far)}."
        numbers |= {"so_far": so_far.value, "so_far_low": so_far.low, "so_far_high": so_far.high}
    return Outcome(
        "not decided yet", f"{asked} (docs/studies/training.md).", f"Not decided yet: {open_}.{said}", numbers
    )


def _shown(found: Estimate) -> str:
    return f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f}; {found.choices} choices)"


def _said(found: Mapping[str, Estimate]) -> str:
    return "; ".join(f"{name}: {_shown(value)}" for name, value in found.items()) + "."


def _numbers(found: Mapping[str, Estimate]) -> dict[str, float]:
    return {
        f"{name} {part}".replace(" ", "_"): getattr(value, part)
        for name, value in found.items()
        for part in ("value", "low", "high")
    }


def draw_estimates(axes: Sequence[Axes], data: Data) -> None:
    """One row for each estimate, with its interval."""
    (panel,) = axes
    estimates = data["estimates"]
    for row, (name, found) in enumerate(estimates.items()):
        error = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
        style = int(name.startswith("error"))
        panel.errorbar(
            [found["value"]],
            [row],
            xerr=np.maximum(error, 0),
            fmt=MARKERS[style],
            color=COLOURS[style],
            mfc="white",
            capsize=2,
        )
    panel.axvline(0, color="black", lw=0.8)
    panel.set(xlim=(-1.05, 1.55), xlabel="Spearman's $\\rho$ of $\\log J$\n(squares: error over the mean's)")
    panel.invert_yaxis()
    panel.set_yticks(range(len(estimates)), list(estimates))
