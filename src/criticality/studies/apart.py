"""Cases at once, each in a process of its own with its share of the cores."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import torch

from criticality.errors import UnreachableError
from criticality.interrupts import uninterrupted

Item = TypeVar("Item")
Result = TypeVar("Result")


def results_apart(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[Result, None, None]:
    """``function`` of each item, in order. Whatever ends this, Ctrl-C among it, ends the processes, too.

    Raises:
        UnreachableError: a process was ended from outside.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    spawned = multiprocessing.get_context("spawn")  # a fork of threads that hold a lock would wait for ever
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, spawned, _begin, (threads,))
    try:
        with _threads_in_environment(threads), uninterrupted():
            futures = [pool.submit(function, item) for item in items]
        for future in futures:
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise UnreachableError(
            f"workers={workers!r} must be fewer, or have more memory: one of their processes was ended from outside"
        ) from error
    finally:
        # Nothing is cancelled: of what is, the thread that finds its processes ended prints a traceback.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        pool.shutdown()


@contextmanager
def _threads_in_environment(threads: int) -> Iterator[None]:
    """What numpy's products are told when a process starts; torch can be told later."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it cannot be blocked before a process begins
