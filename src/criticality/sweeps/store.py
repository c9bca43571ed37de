"""The store of a study: one labelled Dataset over ``cell`` in Zarr, each cell written once, its status last."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from criticality import __version__
from criticality.schema import SCHEMA
from criticality.sweeps.compute import DONE, FAILED, NOT_A_NUMBER, OUT_OF_MEMORY
from criticality.sweeps.study import Study, Values

Result = tuple[int, tuple[str, Values, str, float]]
"""Number of a cell, and what ``compute_cell`` returned."""

STATES = ("open", DONE, FAILED, NOT_A_NUMBER, OUT_OF_MEMORY)
_KIND = "criticality study"
_MESSAGE = 200


class Store:
    """A study's results on disk; one process writes at a time.

    ``values`` of a cell are written first and its ``status`` last, each to a chunk of its own by rename: a process that is killed
    leaves cells either whole or open.

    Raises:
        ValueError: another process writes to it; not a store of a study, or of another study, version or code.
    """

    def __init__(self, path: str | os.PathLike[str], study: Study | None = None, write: bool = False):
        self.path = Path(path)
        self._lock: Any = None
        if write:
            self._take_lock()
        if study is not None and not self.path.exists():
            self._create(study)
        self.group, self.study = self._open()
        if study is not None and self.group.attrs["key"] != study.key():
            raise ValueError(
                f"store {str(self.path)!r} must be of this study, code and version, but is of study"
                f" {self.study.name!r} of criticality {self.group.attrs['version']} with other content or code"
            )
        self.cells = list(self.study.cells())

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path.with_name(self.path.name + ".lock"), "a+")  # noqa: SIM115 (kept while writing)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(f"store {str(self.path)!r} must not be in use, but another process writes to it") from None

    def _create(self, study: Study) -> None:
        """Made beside its place and renamed, so that a store is whole or absent."""
        count = sum(1 for _ in study.cells())
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        group = zarr.open_group(part, mode="w")
        group.create_array("status", shape=(count,), chunks=(1,), dtype="int8", fill_value=0, dimension_names=["cell"])
        group.attrs.update(
            kind=_KIND, schema=SCHEMA, version=__version__, key=study.key(), study=json.dumps(study.record())
        )
        os.replace(part, self.path)

    def _open(self) -> tuple[Any, Study]:
        try:
            group: Any = zarr.open_group(self.path, mode="r+" if self._lock is not None else "r")
            study = study_of(group)
        except Exception as error:
            raise ValueError(
                f"store {str(self.path)!r} must be a whole store of a criticality study: {error}"
            ) from error
        return group, study

    def status(self) -> np.ndarray:
        """Number in ``STATES`` of every cell."""
        values: np.ndarray = np.asarray(self.group["status"][:])
        return values

    def counts(self) -> dict[str, int]:
        """How many cells are in each state."""
        status = self.status()
        return {name: int(np.sum(status == number)) for number, name in enumerate(STATES)}

    def write(self, results: Sequence[Result]) -> int:
        """Cells: values, then status; neighbours together. Returns how many could not be written, as the disk is full."""
        lost = 0
        for run in _neighbours(results):
            try:
                self._write_run(run)
            except OSError:
                for result in run if len(run) > 1 else []:
                    lost += self.write([result])
                lost += len(run) == 1
        return lost

    def _write_run(self, run: Sequence[Result]) -> None:
        first, count = run[0][0], len(run)
        place = slice(first, first + count)
        for name in run[0][1][1]:
            self._array(name, run[0][1][1][name], str(run[0][1][1][name].dtype))[place] = np.stack(
                [values[name] for _, (_, values, _, _) in run]
            )
        self._array("seconds", np.asarray(0.0))[place] = np.array([seconds for _, (_, _, _, seconds) in run])
        if any(message for _, (_, _, message, _) in run):
            rows = [
                np.frombuffer(message.encode()[:_MESSAGE].ljust(_MESSAGE), np.uint8) for _, (_, _, message, _) in run
            ]
            self._array("message", rows[0], "uint8")[place] = np.stack(rows)
        self.group["status"][place] = np.array([STATES.index(status) for _, (status, _, _, _) in run], dtype="int8")

    def _array(self, name: str, value: np.ndarray, dtype: str = "float64") -> Any:
        if name not in self.group:
            dims = ["cell", *(f"{name}_{axis}" for axis in range(value.ndim))]
            self.group.create_array(
                name,
                shape=(len(self.cells), *value.shape),
                chunks=(1, *value.shape),
                dtype=dtype,
                fill_value=0 if dtype == "uint8" else np.nan,
                compressors=None,
                dimension_names=dims,
            )
        return self.group[name]

    def messages(self) -> dict[int, str]:
        """Of the cells that left one."""
        if "message" not in self.group:
            return {}
        rows = np.asarray(self.group["message"][:])
        return {int(i): bytes(rows[i]).decode(errors="replace").strip("\0 ") for i in np.flatnonzero(rows.any(axis=1))}

    def dataset(self) -> xr.Dataset:
        """Everything so far, with the parameters as coordinates along ``cell``."""
        return dataset_of(self.group, self.cells)


def dataset_of(group: Any, cells: Sequence[Mapping[str, Any]]) -> xr.Dataset:
    """What the Zarr group of a store holds on its cells, with their parameters as coordinates along ``cell``."""
    variables = {
        name: (array.metadata.dimension_names, np.asarray(array[:]))
        for name, array in group.arrays()
        if name not in ("message", "status")
    }
    names = list(dict.fromkeys(name for cell in cells for name in cell))
    coordinates: dict[str, Any] = {name: ("cell", _column(cells, name)) for name in names}
    coordinates["status"] = ("cell", np.array([STATES[number] for number in np.asarray(group["status"][:])]))
    attrs = {"source": "study", "schema": SCHEMA, "study": group.attrs["study"], "version": group.attrs["version"]}
    apart = {name: variable for name, variable in variables.items() if name not in coordinates}
    return xr.Dataset(apart, coordinates, attrs)


def study_of(group: Any) -> Study:
    """The study whose results a Zarr group holds.

    Raises:
        ValueError: a group of another kind, schema or number of cells.
    """
    attrs = dict(group.attrs)
    if attrs.get("kind") != _KIND or attrs.get("schema") != SCHEMA or "status" not in group:
        raise ValueError(f"its kind is {attrs.get('kind')!r} and its schema {attrs.get('schema')!r}")
    content = json.loads(str(attrs["study"]))
    study = Study(**{**content, "cases": tuple(content["cases"])})
    if group["status"].shape != (sum(1 for _ in study.cells()),):
        raise ValueError("its cells are not those of its study")
    return study


def _neighbours(results: Sequence[Result]) -> list[list[Result]]:
    """Runs of cells that follow each other and hold values of the same names and shapes."""
    runs: list[list[Result]] = []
    before: Any = None
    for index, (status, values, message, seconds) in sorted(results, key=lambda result: result[0]):
        shape = {name: value.shape for name, value in values.items()}, bool(message)
        if before != (index - 1, shape):
            runs.append([])
        runs[-1].append((index, (status, values, message, seconds)))
        before = (index, shape)
    return runs


def _column(cells: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    values = [cell.get(name) for cell in cells]
    if all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values):
        return np.array([np.nan if value is None else value for value in values], dtype=float)
    return np.array(["" if value is None else str(value) for value in values])
