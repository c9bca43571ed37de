"""Run a study through Dask: locally without set-up, or on a cluster's scheduler."""

from __future__ import annotations

import math
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from criticality.arguments import Count, checked
from criticality.errors import ArgumentError, FileError, UnreachableError
from criticality.extras import require
from criticality.interrupts import uninterrupted
from criticality.sweeps.compute import DONE, FAILED, Computed, compute_cells
from criticality.sweeps.integrity import sentence
from criticality.sweeps.search import next_cell
from criticality.sweeps.stacks import compute_stack, stacks_of
from criticality.sweeps.store import REPAIR, STATES, Store
from criticality.sweeps.study import Cell, Study

__all__ = [
    "Report",
    "export_study",
    "run_study",
]

_OPEN, _DONE = STATES.index("open"), STATES.index(DONE)

_TASK_SECONDS = 0.25
"""Quick cells are sent together, about as many as take this long."""

_MOST_TOGETHER = 64

_DEATHS = 3
"""Of the worker that has a task, before the task is given up."""

_KILLED = "its process was killed each time, as the system does when memory runs out"


@dataclass(frozen=True)
class Report:
    """How a run ended: how many cells are in each state, and how many results could not be written."""

    counts: dict[str, int]
    computed: int
    not_written: int
    damaged: str = ""
    """One sentence, where cells do not hold what was written of them and were not computed again."""


@checked
def run_study(
    study: Study,
    path: str | os.PathLike[str],
    *,
    scheduler: str | None = None,
    workers: int = 2,
    together: Count | None = None,
    device: str = "cpu",
    progress: Callable[[int, str], None] | None = None,
    retry: bool = False,
) -> Report:
    """Compute every open cell of a study, and write each as it is done; a rerun takes up what is open.

    Args:
        study: what.
        path: the Zarr store, made when missing.
        scheduler: address of a Dask scheduler, ``tcp://...``; without, worker processes are started here.
        workers: how many; 0 computes one cell after another in this process, without Dask.
        together: train this many runs at once in one stack (``laboratory.train_together``), in this process, as a card does as fast
            as one; of a study with ``search`` every value is computed.
        device: of torch, with ``together``.
        progress: called with a number of cells that were done and the state of the last of them.
        retry: compute cells again that failed, returned nan, exceeded their memory or are damaged.

    Raises:
        ValueError: as ``Store``; ``together`` of a study that is not one of such trainings, or a device that is not there; a study
            with ``search`` and ``workers`` other than 0, or with ``search`` and damaged cells; no
            file of the study's own function; worker processes on a machine whose loopback interface is down.
    """
    _check_asked(study, scheduler, workers, together, device)
    store = Store(path, study, write=True)
    try:
        with _finished_first():
            damaged = store.damage()
        if damaged and study.search and not retry:
            raise FileError(f"{sentence(store.where, damaged, store.cells)}; {REPAIR}")
        if retry:
            store.forget_missing()
        written = _Written(store, progress)
        if together is not None:
            _in_stacks(study, store, _todo(store, damaged, retry), together, device, written)
        elif workers == 0:
            _one_by_one(study, store, retry, set(damaged), written)
        elif todo := _todo(store, damaged, retry):
            with _client(scheduler, workers) as client:
                _drive(client, study, store, todo, written)
        left = sentence(store.where, damaged, store.cells) if damaged and not retry else ""
        return Report(store.counts(), written.computed, written.lost, f"{left}; {REPAIR}" if left else "")
    finally:
        store.close()


def _check_asked(study: Study, scheduler: str | None, workers: int, together: int | None, device: str) -> None:
    _check_own_file(study)
    if together is None and device != "cpu":
        raise ArgumentError(f"device={device!r} must come with together, how many runs are trained at once")
    if together is not None:
        from criticality.devices import torch_device  # which imports torch: most studies do without

        torch_device(device)
    elif study.search and workers != 0:
        raise ArgumentError(
            f"workers={workers!r} must be 0 for a study that searches {study.search!r}, one cell after another"
        )
    elif workers != 0 and scheduler is None:
        _check_loopback(workers)


def _todo(store: Store, damaged: Collection[int], retry: bool) -> list[int]:
    """Cells that are open; with ``retry`` all that are not done, and what is damaged."""
    status = store.status()
    asked = status != _DONE if retry else status == _OPEN
    asked[list(damaged)] = retry
    return [int(index) for index in np.flatnonzero(asked)]


class _Written:
    """Writes results as they come, and counts how many were, and could not be, written."""

    def __init__(self, store: Store, progress: Callable[[int, str], None] | None):
        self.store, self.progress = store, progress
        self.computed = self.lost = 0

    def __call__(self, results: Mapping[int, Computed]) -> None:
        with _finished_first():
            lost = self.store.write(results)
        self.computed, self.lost = self.computed + len(results) - lost, self.lost + lost
        if self.progress is not None:
            self.progress(len(results), list(results.values())[-1].status)


def _check_own_file(study: Study) -> None:
    own = study.compute.removeprefix("module:").rpartition(":")
    if study.compute.startswith("module:") and not (own[2] and Path(own[0]).is_file()):
        raise ArgumentError(
            f"compute={study.compute!r} must be 'module:PATH.py:FUNCTION' of a file that exists, from the folder {os.getcwd()!r}"
        )


def _one_by_one(study: Study, store: Store, retry: bool, damaged: set[int], written: _Written) -> None:
    """In this process; each cell is written before the next one starts."""
    tried = set() if retry else set(damaged)
    while True:
        with _finished_first():
            index = next_cell(study, store, tried, retry, damaged)
        if index is None:
            break
        tried.add(index)
        written(compute_cells(study.compute, {index: store.cells[index]}, study.memory_gb))


def _in_stacks(study: Study, store: Store, todo: list[int], most: int, device: str, written: _Written) -> None:
    """A stack after the other, in this process."""
    for stack in stacks_of({index: store.cells[index] for index in todo}, study.compute, most):
        written(compute_stack(stack, device))


def _check_loopback(workers: int) -> None:
    """Dask's processes of one machine talk through it, and wait for ever where it is down."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=5),
        ):
            pass
    except OSError as error:
        raise UnreachableError(
            f"workers={workers!r} must be 0 on this machine, as its loopback interface does not answer ({error.strerror or error})"
        ) from error


@contextmanager
def _finished_first() -> Iterator[None]:
    """Ctrl-C during a few reads or writes of the store is heard when they are through, as they run in threads of Zarr."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt


@contextmanager
def _client(scheduler: str | None, workers: int) -> Iterator[Any]:
    dask = require("dask")
    require("distributed")
    from distributed import Client, LocalCluster

    with dask.config.set(
        {
            "distributed.worker.memory.terminate": False,
            "distributed.scheduler.allowed-failures": _DEATHS - 1,
            "distributed.logging.distributed": "error",
        }
    ):
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=30)
            except (OSError, TimeoutError, ValueError) as error:
                raise UnreachableError(
                    f"scheduler={scheduler!r} must be the address of a Dask scheduler that answers: {error}"
                ) from error
            with client:
                yield client
            return
        with ExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory(prefix="criticality-", ignore_cleanup_errors=True))
            with uninterrupted(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", r"\s*Port \d+ is already in use")  # by another study's dashboard
                try:
                    cluster = LocalCluster(
                        n_workers=workers,
                        threads_per_worker=1,
                        processes=True,
                        dashboard_address=None,
                        memory_limit=0,
                        silence_logs=50,
                        local_directory=folder,
                    )
                except RuntimeError as error:
                    raise UnreachableError(
                        f"workers={workers} must start, and do not ({error}): a script must run a study under"
                        " if __name__ == '__main__', as workers import it"
                    ) from error
                stack.enter_context(cluster)
                client = stack.enter_context(Client(cluster))
            yield client


def _drive(client: Any, study: Study, store: Store, todo: list[int], written: _Written) -> None:
    """Keep a few tasks on every worker; write what comes back.

    Of the tasks of a worker that died again and again one killed it: their cells are computed at the end, each alone.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    together = 1
    waiting, suspects = iter(todo), list[int]()
    running, batches = as_completed([]), dict[str, dict[int, Cell]]()

    def submit(batch: dict[int, Cell]) -> Any:
        return client.submit(compute_cells, study.compute, batch, study.memory_gb, pure=False)

    def submit_next() -> None:
        batch = {index: store.cells[index] for index in islice(waiting, together)}
        if batch:
            future = submit(batch)
            batches[future.key] = batch
            running.add(future)

    for _ in range(3 * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))):
        submit_next()
    for future in running:
        batch = batches.pop(future.key)
        try:
            results = future.result()
        except KilledWorker:
            suspects += batch
        else:
            written(results)
            slowest = max(one.seconds for one in results.values())
            together = max(1, min(_MOST_TOGETHER, int(_TASK_SECONDS / max(slowest, 1e-6)), 2 * together))
        future.release()
        submit_next()
    for index in suspects:
        try:
            written(submit({index: store.cells[index]}).result())
        except KilledWorker:
            written({index: Computed(FAILED, {}, _KILLED, math.nan)})


@checked
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
    raise ArgumentError(f"out={str(target)!r} must end in .nc or .csv")
