"""The user's own Python files, and names in them."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

from criticality.arguments import meant
from criticality.errors import FileError, raised


@cache
def load_file(path: str, what: str = "file") -> Any:
    """A Python file as a module, which may import files beside it; ``what`` is what errors call it.

    Raises:
        ValueError: no such file, or one that cannot be imported.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileError(f"{what} {path!r} must exist, and does not")
    name = f"_criticality_{file.stem}_{abs(hash(str(file.resolve())))}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise FileError(f"{what} {path!r} must be a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if (folder := str(file.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # last: nothing that is installed is hidden by a name of the user's
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise FileError(f"{what} {path!r} must be importable, but its own code raised {raised(error)}") from error
    return module


def load_name(path_and_name: str) -> Any:
    """What ``PATH.py:NAME`` names.

    Raises:
        ValueError: as ``load_file``, or no such name in the file.
    """
    path, _, name = path_and_name.rpartition(":")
    module = load_file(path)
    if not hasattr(module, name):
        defined = [key for key in vars(module) if not key.startswith("_")]
        raise FileError(f"file {path!r} must define {name!r}, and does not{meant(name, defined)}")
    return getattr(module, name)
