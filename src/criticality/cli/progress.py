"""Progress bars, on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(total: int, label: str) -> Iterator[Callable[[str, int], None]]:
    """A progress bar of ``total`` steps, shown where stderr is a terminal; yields ``advance(what, steps)``."""
    from tqdm import tqdm

    with tqdm(total=total, desc=label, file=sys.stderr, dynamic_ncols=True, leave=False, disable=None) as progress:

        def advance(what: str, steps: int) -> None:
            progress.set_postfix_str(what)
            progress.update(steps)

        yield advance
