"""Progress bars, on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any


def _shape() -> dict[str, Any]:
    """For tqdm: as the terminal is, or usual where it says that it has no rows or columns, as in some containers, and tqdm would
    show nothing."""
    with suppress(AttributeError, OSError, ValueError):  # no terminal
        size = os.get_terminal_size(sys.stderr.fileno())
        if size.lines and size.columns:
            return {"dynamic_ncols": True}
    return {"ncols": 79, "nrows": 24}


@contextmanager
def working(label: str) -> Iterator[None]:
    """What is being done and for how long, shown where stderr is a terminal, for work that does not count its steps."""
    from tqdm import tqdm

    done = Event()
    form = "{desc}: {elapsed}"
    with tqdm(desc=label, file=sys.stderr, leave=False, disable=None, bar_format=form, **_shape()) as clock:

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

    with tqdm(total=total, desc=label, file=sys.stderr, leave=False, disable=None, **_shape()) as progress:

        def advance(what: str, steps: int) -> None:
            progress.set_postfix_str(what)
            progress.update(steps)

        yield advance
