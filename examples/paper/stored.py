"""What of the stored results can be computed again by itself, and how far it is from what is stored.

Each kind gives its items and a function that computes one anew and returns the largest relative difference.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from claim import CLAIMS
from criticality.errors import CriticalityError
from criticality.sweeps import compute_cell, read_study
from figures import FIGURES
from kept import DATA, FIRST_STEPS, kept_study

ROOT = Path(__file__).parents[2]
DEEPEST_PRESCRIPTION = 24
"""Deeper rows of the table of prescriptions take minutes."""


@dataclass(frozen=True)
class Stored:
    """Results of one kind: a name for each item, and the function that computes it anew."""

    items: Sequence[Any]
    difference: Callable[[Any], float]
    tolerance: float = 1e-6


def curves_of(name: str) -> list[dict[str, Any]]:
    """Settings and values of one figure's curves."""
    found: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text())["curves"]
    return found


def relative(was: Mapping[str, Any], now: Mapping[str, Any]) -> float:
    """Largest difference over all values that both have."""
    worst = 0.0
    for key in was:
        if isinstance(was[key], Mapping):
            worst = max(worst, relative(was[key], now[key]))
            continue
        a, b = np.asarray(was[key], dtype=float), np.asarray(now[key], dtype=float)
        gap = np.where(a == b, 0.0, np.abs(b - a) / np.maximum(np.abs(a), 1e-9))
        worst = max(worst, float(np.max(gap, initial=0.0)))
    return worst


def prescriptions() -> Any:
    """The script of the site's table of prescriptions."""
    sys.path.append(str(ROOT / "docs"))
    return import_module("make_prescriptions")


def _figure(name: str) -> Stored:
    seed, figure = json.loads((DATA / f"{name}.json").read_text())["seed"], FIGURES[name]
    return Stored(curves_of(name), lambda c: relative(c["values"], figure.curve(c["settings"], seed)), figure.tolerance)


def _claims() -> Stored:
    records = {r["key"]: r for r in json.loads((ROOT / "docs" / "claims" / "claims.json").read_text())}
    return Stored(
        list(CLAIMS), lambda key: relative(records[key]["numbers"], CLAIMS[key].decide(0).numbers), tolerance=1e-4
    )


def _prescriptions() -> Stored:
    rows = json.loads((ROOT / "docs" / "data" / "prescriptions.json").read_text())
    quantities = ("predicted", "measured", "branch_share")

    def difference(row: Mapping[str, Any]) -> float:
        make = prescriptions()
        again = make.row(
            row["choice"], row["norm"], row["depth"], *make.choices(row["norm"], row["depth"])[row["choice"]]
        )
        return relative({q: row[q] for q in quantities}, again)

    kept = [row for row in rows if row["depth"] <= DEEPEST_PRESCRIPTION and row["norm"] != "ln"]
    return Stored(kept, difference, tolerance=1e-4)


def _trainings() -> Stored:
    """Another processor rounds otherwise, and a training amplifies that: its start is compared, and how it ends."""
    items = [(name, i) for name in FIRST_STEPS for i in range(kept_study(name).sizes["cell"])]

    def difference(item: tuple[str, int]) -> float:
        name, index = item
        row = kept_study(name).isel(cell=index)
        cell = list(read_study(ROOT / "docs" / "studies" / f"{name}.yaml").cells())[index]
        found = compute_cell("train", cell, None)
        if found.status != str(row.status.values):
            raise CriticalityError(
                f"training {cell} must end as {row.status.values!s}, but ended as {found.status}: {found.message}"
            )
        return relative({key: float(row[key]) for key in ("log_apjn", "first_loss")}, found.values)

    return Stored(items, difference, tolerance=1e-3)


KINDS: dict[str, Callable[[], Stored]] = {
    **{name: partial(_figure, name) for name in FIGURES},
    "claims": _claims,
    "prescriptions": _prescriptions,
    "trainings": _trainings,
}
"""What can be checked; read when it is asked for."""
