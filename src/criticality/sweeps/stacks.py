"""Cells of a study of trainings computed together, many runs in one stack."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from criticality.errors import RAISED, ArgumentError
from criticality.sweeps.compute import DONE, Computed, as_floating, failure, kept_of_seeds, stacked_values
from criticality.sweeps.study import Cell


def stacks_of(cells: Mapping[int, Cell], compute: str, most: int) -> list[dict[int, Cell]]:
    """Cells that can be trained in one stack, by number, each stack of at most ``most`` runs (one cell at least).

    Raises:
        ValueError: a study of something else than tasks that are trained in stacks.
    """
    from criticality.laboratory import names, residual_run, stacked_vit

    found: dict[str, list[dict[int, Cell]]] = {}
    for number, cell in cells.items():
        task = cell.get("task")
        if compute != "train" or not (task in names.STACKED or (task == "fashion-vit" and "seeds" in cell)):
            allowed = (*names.STACKED, "fashion-vit (with seeds)")
            raise ArgumentError(
                f"together={most!r} must be left out but for compute='train' of {', '.join(allowed)}, and is given with"
                f" compute={compute!r}, task={task!r}"
            )
        apart = residual_run.APART if task in names.STACKED else (*stacked_vit.APART, "seeds", "first_seed")
        key = json.dumps({name: value for name, value in cell.items() if name not in apart}, sort_keys=True)
        stacks = found.setdefault(key, [{}])
        if stacks[-1] and sum(map(_seeds, stacks[-1].values())) + _seeds(cell) > most:
            stacks.append({})
        stacks[-1][number] = cell
    return [stack for stacks in found.values() for stack in stacks]


def compute_stack(cells: Mapping[int, Cell], device: str) -> dict[int, Computed]:
    """Cells of one stack, by number; nothing that they do is raised."""
    began = time.perf_counter()
    try:
        values = _trained(list(cells.values()), device)
    except RAISED as error:
        status, message = failure(error, None)
        failed = Computed(status, {}, message, (time.perf_counter() - began) / len(cells))
        return dict.fromkeys(cells, failed)
    share = (time.perf_counter() - began) / len(cells)
    return {
        number: Computed(DONE, {name: as_floating(value) for name, value in found.items()}, "", share)
        for number, found in zip(cells, values, strict=True)
    }


def _trained(cells: list[Cell], device: str) -> list[dict[str, Any]]:
    from criticality.laboratory.names import STACKED
    from criticality.laboratory.residual_run import ResidualRun
    from criticality.laboratory.stacked import train_together
    from criticality.laboratory.stacked_vit import train_vits
    from criticality.laboratory.train import Run

    if cells[0]["task"] in STACKED:
        return [
            stacked_values(found) for found in train_together([ResidualRun(**cell) for cell in cells], device=device)
        ]
    runs = [
        Run(**{name: value for name, value in cell.items() if name not in ("seeds", "first_seed")}, seed=seed)
        for cell in cells
        for seed in range(int(cell.get("first_seed", 0)), int(cell.get("first_seed", 0)) + _seeds(cell))
    ]
    found = train_vits(runs, device=device)
    ends = np.cumsum([_seeds(cell) for cell in cells])
    parts = [slice(end - _seeds(cell), end) for cell, end in zip(cells, ends, strict=True)]
    return [kept_of_seeds({name: values[part] for name, values in found.items()}) for part in parts]


def _seeds(cell: Cell) -> int:
    return int(cell.get("seeds", 1))
