"""Packages that the core does without: which extra brings each, and one sentence where it is missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from criticality.errors import MissingPackageError

EXTRA_OF = {
    "PIL": "timm",
    "dask": "sweeps",
    "distributed": "sweeps",
    "safetensors": "hf",
    "sklearn": "train",
    "timm": "timm",
    "transformers": "hf",
    "yaml": "sweeps",
    "zarr": "sweeps",
}
"""The extra of ``pyproject.toml`` that brings a package."""


def require(package: str) -> Any:
    """Import a package that is no part of the core.

    Raises:
        MissingPackageError: it, or what it needs itself, is not installed; names the command that installs it.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise _missing((error.name or package).partition(".")[0]) from None


def folder_of(package: str) -> Path:
    """Where a package's files are, which is not imported.

    Raises:
        MissingPackageError: as ``require``.
    """
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise _missing(package)
    return Path(found.submodule_search_locations[0])


def _missing(package: str) -> MissingPackageError:
    what = f"'criticality[{EXTRA_OF[package]}]'" if package in EXTRA_OF else package
    return MissingPackageError(f"package {package!r} must be installed for this, and is not: pip install {what}")
