"""What every prediction and every measurement returns: one table of numbers along the depth of a network, and its files.

A profile is an ``xarray.Dataset`` over the dimension ``block``: the position of each point of the residual stream in
blocks (``0`` is the input of the first block, ``depth`` the output of the last, halves are between attention and MLP).

======================  =======================================================================================
variable                meaning
======================  =======================================================================================
``log_apjn``            natural log of the averaged partial Jacobian norm ``J(l -> L)`` from here to the last point
``log_apjn_se``         its standard error (where something was drawn; nan where one sample leaves it unknown)
``log_susceptibility``  ``log J(l -> L) - log J(l+1 -> L)``, from here to the next point; nan at the last
``q``, ``q_se``         mean over tokens of ``|x_a|^2 / width``
``p``                   mean over pairs of different tokens of ``x_a . x_b / width``; nan for one token
``correlation``         mean over such pairs of the cosine of ``x_a`` and ``x_b``; nan for one token
``correlation_se``      its standard error (measurement of an ensemble only)
``kernel``              optional, ``(block, token, other_token)``
``backward_kernel``     optional, likewise, divided by ``J``
======================  =======================================================================================

Attributes: ``source`` (``theory`` or ``measurement``), ``schema`` (version) and what made it.  Datasets may carry
further dimensions in front (``case``).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from criticality.arguments import checked
from criticality.errors import ArgumentError, FileError
from criticality.lazy import lazy_module

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_module("xarray")

__all__ = [
    "SCHEMA",
    "plain",
    "profile_dataset",
    "read_dataset",
    "source_digest",
    "whole_or_absent",
    "write_dataset",
    "write_text",
]

SCHEMA = 1
_REQUIRED = ("log_apjn", "q", "correlation")
_LONG_NAMES = {
    "block": "depth in blocks",
    "log_apjn": "log averaged partial Jacobian norm, log J(l -> L)",
    "log_apjn_se": "standard error of log J(l -> L)",
    "log_susceptibility": "log susceptibility of the step to the next point",
    "q": "kernel, mean over tokens",
    "q_se": "standard error of q",
    "p": "covariance of different tokens, mean over pairs",
    "correlation": "correlation of different tokens, mean over pairs",
    "correlation_se": "standard error of the correlation",
    "kernel": "forward kernel K",
    "backward_kernel": "backward kernel G / J",
}


class ProfileArrays(dict[str, np.ndarray]):
    """A profile as arrays by name, ``block`` among them, each of shape ``(boundaries,)`` or, kernels, ``(boundaries, tokens,
    tokens)``: for what only prints, as xarray takes longer to import than a theory to compute."""

    def __init__(self, attrs: Mapping[str, Any], **arrays: ArrayLike | None):
        super().__init__({name: np.asarray(values, float) for name, values in arrays.items() if values is not None})
        self.attrs = dict(attrs)

    def dataset(self) -> xr.Dataset:
        """The profile as it is returned and written."""
        log_apjn = self["log_apjn"]
        arrays = {"log_apjn": log_apjn, "log_susceptibility": np.append(log_apjn[:-1] - log_apjn[1:], np.nan)} | self
        data = {
            name: (("block", "token", "other_token")[: values.ndim], values, {"long_name": _LONG_NAMES[name]})
            for name, values in arrays.items()
        }
        return xr.Dataset(data, attrs=self.attrs).set_coords("block")


def profile_dataset(
    block: Sequence[float],
    log_apjn: np.ndarray,
    source: str,
    attrs: Mapping[str, Any],
    **variables: np.ndarray | None,
) -> xr.Dataset:
    """A profile from its arrays (``ProfileArrays``)."""
    about = {"source": source, "schema": SCHEMA, **attrs}
    return ProfileArrays(about, block=block, log_apjn=log_apjn, **variables).dataset()


def check_can_be_made(path: str | os.PathLike[str]) -> None:
    """Whether a file or folder can be made or written at a path, for those who would work for minutes first; leaves nothing there.

    Raises:
        FileError: a file where a folder should be, or a place where nothing can be made.
    """
    target = Path(path)
    near = target if target.is_dir() else next(parent for parent in target.parents if parent.exists())
    if not near.is_dir():
        raise FileError(
            f"{str(target)!r} must be a place that can be written, but {str(near)!r} is a file and no folder"
        )
    try:
        with TemporaryFile(dir=near):
            pass
    except OSError as error:
        raise FileError(f"{str(target)!r} must be a place that can be written: {error.strerror or error}") from error


@contextmanager
def whole_or_absent(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A neighbour of ``path`` to write to, renamed over it when all went well and removed otherwise.

    Raises:
        FileError: a folder, or a place where no file can be made.
    """
    target = Path(path)
    if target.is_dir():
        raise FileError(f"file {str(target)!r} must be one that can be written, and is a folder")
    neighbour = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        neighbour.touch()
    except OSError as error:
        raise FileError(f"file {str(target)!r} must be one that can be written: {error.strerror or error}") from error
    try:
        yield neighbour
        os.replace(neighbour, target)
    finally:
        neighbour.unlink(missing_ok=True)


@checked
def write_dataset(dataset: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write NetCDF; the file is either whole or, when something fails, as it was."""
    with whole_or_absent(path) as file:
        dataset.to_netcdf(file, engine="h5netcdf")
    return Path(path)


def write_text(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a text file whole or not at all."""
    with whole_or_absent(path) as file:
        file.write_text(text, encoding="utf-8")
    return Path(path)


def require_variables(dataset: xr.Dataset, argument: str, *names: str) -> None:
    """Refuse a dataset of another kind.

    Raises:
        ArgumentError: naming the argument and the first variable or coordinate that it has not.
    """
    missing = [name for name in names if name not in dataset.variables]
    if missing:
        source = dataset.attrs.get("source")
        kind = f" of {source}" if source else ""
        raise ArgumentError(
            f"{argument} must be a dataset with {', '.join(names)}, and this one{kind} has no {missing[0]!r}"
        )


def plain(value: Any) -> Any:
    """The JSON form of numbers, arrays and mappings of them; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@cache
def source_digest(*packages: str) -> str:
    """Of the library's own code in ``packages``, all without any: what older code computed is computed again."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        if not packages or path.relative_to(root).parts[0] in packages:
            digest.update(path.read_bytes())
    return digest.hexdigest()


@checked
def read_dataset(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a result file into memory.

    Raises:
        ValueError: no such file, not a NetCDF file, or not one of this library's.
    """
    source = Path(path)
    if not source.is_file():
        raise FileError(f"result file {str(source)!r} must exist, and does not")
    try:
        dataset = xr.load_dataset(source, engine="h5netcdf")
    except Exception as error:
        raise FileError(f"result file {str(source)!r} must be a NetCDF file of criticality: {error}") from error
    missing = [name for name in _REQUIRED if name not in dataset and f"{name}_measured" not in dataset]
    if dataset.attrs.get("schema") != SCHEMA or missing:
        found = dataset.attrs.get("schema", "none")
        raise FileError(
            f"result file {str(source)!r} must have the schema {SCHEMA} of criticality;"
            f" its schema is {found} and it lacks {missing or 'nothing'}"
        )
    return dataset
