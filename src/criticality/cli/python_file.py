"""Names from the user's own Python files."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any


def load_name(path_and_name: str) -> Any:
    """What ``PATH.py:NAME`` names.

    Raises:
        ValueError: no such file, a file that cannot be run, or no such name in it.
    """
    path, _, name = path_and_name.rpartition(":")
    if not Path(path).is_file():
        raise ValueError(f"file {path!r} must exist, and does not")
    try:
        names = runpy.run_path(path)
    except Exception as error:
        raise ValueError(f"file {path!r} must run, but raised {error!r}") from error
    if name not in names:
        raise ValueError(f"file {path!r} must define {name!r}, and does not")
    return names[name]
