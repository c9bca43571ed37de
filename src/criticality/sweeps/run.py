"""Run a study through Dask: locally without set-up, or on a cluster's scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from criticality.sweeps.compute import compute_cells
from criticality.sweeps.search import next_cell
from criticality.sweeps.store import Store
from criticality.sweeps.study import Study

_TASK_SECONDS = 0.25
"""Quick cells are sent together, about as many as take this long."""

_MOST_TOGETHER = 64


@dataclass(frozen=True)
class Report:
    """How a run ended: how many cells are in each state, and how many results could not be written."""

    counts: dict[str, int]
    computed: int
    not_written: int


def run_study(
    study: Study,
    path: str | os.PathLike[str],
    *,
    scheduler: str | None = None,
    workers: int = 2,
    progress: Callable[[int, str], None] | None = None,
    retry: bool = False,
) -> Report:
    """Compute every open cell of a study, and write each as it is done; a rerun takes up what is open.

    Args:
        study: what.
        path: the Zarr store, made when missing.
        scheduler: address of a Dask scheduler, ``tcp://...``; without, worker processes are started here.
        workers: how many; 0 computes one cell after another in this process, without Dask.
        progress: called with a number of cells that were done and the state of the last of them.
        retry: compute cells again that failed, returned nan or exceeded their memory.

    Raises:
        ValueError: as ``Store``; a study with ``search`` and ``workers`` other than 0.
    """
    if study.search and workers != 0:
        raise ValueError(
            f"workers={workers!r} must be 0 for a study that searches {study.search!r}, one cell after another"
        )
    store = Store(path, study, write=True)
    try:
        if workers == 0:
            return _one_by_one(study, store, progress, retry)
        done = store.status() > 0 if not retry else store.status() == 1
        todo = [int(index) for index in np.flatnonzero(~done)]
        if not todo:
            return Report(store.counts(), 0, 0)
        with _client(scheduler, workers) as client:
            computed, not_written = _drive(client, study, store, todo, progress)
        return Report(store.counts(), computed, not_written)
    finally:
        store.close()


def _one_by_one(study: Study, store: Store, progress: Callable[[int, str], None] | None, retry: bool) -> Report:
    """In this process; each cell is written before the next one starts."""
    computed = lost = 0
    tried: set[int] = set()
    while (index := next_cell(study, store, tried, retry)) is not None:
        tried.add(index)
        results = compute_cells(study.compute, [(index, store.cells[index])], study.memory_gb)
        missing = store.write(results)
        computed, lost = computed + 1 - missing, lost + missing
        if progress is not None:
            progress(1, results[0][1][0])
    return Report(store.counts(), computed, lost)


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set(
        {
            "distributed.worker.memory.terminate": False,
            "distributed.scheduler.allowed-failures": 20,
            "distributed.logging.distributed": "error",
        }
    ):
        if scheduler is not None:
            with Client(scheduler, timeout=30) as client:
                yield client
            return
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                memory_limit=0,
                silence_logs=50,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def _drive(
    client: Any, study: Study, store: Store, todo: list[int], progress: Callable[[int, str], None] | None
) -> tuple[int, int]:
    """Keep a few tasks on every worker; write what comes back."""
    from distributed import as_completed

    together, computed, not_written = 1, 0, 0
    waiting = iter(todo)
    running = as_completed([])

    def submit() -> None:
        batch = [(index, store.cells[index]) for index in islice(waiting, together)]
        if batch:
            running.add(client.submit(compute_cells, study.compute, batch, study.memory_gb, pure=False))

    for _ in range(3 * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))):
        submit()
    for future in running:
        results = future.result()
        lost = store.write(results)
        computed, not_written = computed + len(results) - lost, not_written + lost
        slowest = max(seconds for _, (_, _, _, seconds) in results)
        together = max(1, min(_MOST_TOGETHER, int(_TASK_SECONDS / max(slowest, 1e-6)), 2 * together))
        if progress is not None:
            progress(len(results), results[-1][1][0])
        future.release()
        submit()
    return computed, not_written


def export_study(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write what a store holds as NetCDF (``.nc``) or as a table (``.csv``).

    Raises:
        ValueError: another ending, or as ``Store``.
    """
    from criticality.schema import whole_or_absent, write_dataset

    target, dataset = Path(out), Store(path).dataset()
    if target.suffix == ".nc":
        return write_dataset(dataset, target)
    if target.suffix == ".csv":
        flat = dataset[[name for name in dataset.data_vars if dataset[name].dims == ("cell",)]]
        with whole_or_absent(target) as file:
            flat.to_dataframe().to_csv(file)
        return target
    raise ValueError(f"out={str(target)!r} must end in .nc or .csv")
