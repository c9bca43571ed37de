"""Progress bars, on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread


def _columns() -> int:
    """Of the terminal; one that says 0, as in some containers, would be shown nothing."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (AttributeError, OSError, ValueError):  # no terminal
        return 80


@contextmanager
def working(label: str) -> Iterator[None]:
    """What is being done and for how long, shown where stderr is a terminal, for work that does not count its steps."""
    from tqdm import tqdm

    done = Event()
    with tqdm(
        desc=label, file=sys.stderr, leave=False, disable=None, ncols=_columns(), bar_format="{desc}: {elapsed}"
    ) as clock:

        def tick() -> None:
            while not done.wait(0.5):
                clock.refresh()

        ticking = Thread(target=tick, daemon=True)
        ticking.start()
        try:
            yield
        finally:
            done.set()
            ticking.join()


@contextmanager
def bar(total: int, label: str) -> Iterator[Callable[[str, int], None]]:
    """A progress bar of ``total`` steps, shown where stderr is a terminal; yields ``advance(what, steps)``."""
    from tqdm import tqdm

    with tqdm(total=total, desc=label, file=sys.stderr, ncols=_columns(), leave=False, disable=None) as progress:

        def advance(what: str, steps: int) -> None:
            progress.set_postfix_str(what)
            progress.update(steps)

        yield advance
