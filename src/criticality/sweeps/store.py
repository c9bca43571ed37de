"""The store of a study: one labelled Dataset over ``cell`` in Zarr, each cell written once, its status last."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from criticality import __version__
from criticality.arguments import checked
from criticality.errors import FileError
from criticality.extras import require
from criticality.moved import renamed_names
from criticality.schema import SCHEMA
from criticality.sweeps.compute import DONE, FAILED, NOT_A_NUMBER, OUT_OF_MEMORY, Computed
from criticality.sweeps.integrity import (
    CHECKED,
    CHECKSUM,
    VARIABLES,
    arrays_of,
    checksum_of,
    damage_of,
    read_rows,
    sentence,
)
from criticality.sweeps.study import Study

__all__ = [
    "STATES",
    "Store",
    "dataset_of",
    "study_of",
]

zarr = require("zarr")

__getattr__ = renamed_names(__name__)

STATES = ("open", DONE, FAILED, NOT_A_NUMBER, OUT_OF_MEMORY, "damaged")
"""Of cells; what is damaged is never written, but found when it is read."""

REPAIR = "criticality sweep resume --retry computes what is damaged again"

_DAMAGED = STATES.index("damaged")
_KIND = "criticality study"
_MESSAGE = 200


class Store:
    """A study's results on disk; one process writes at a time.

    ``values`` of a cell are written first, then their checksum, and its ``status`` last, each to a chunk of its own by rename: a
    process that is killed leaves cells either whole or open.  What is read is verified.

    Raises:
        ValueError: another process writes to it; not a store of a study, or of another study, version or code.
    """

    @checked
    def __init__(self, path: str | os.PathLike[str], study: Study | None = None, write: bool = False):
        self.path = Path(path)
        self._lock: Any = None
        if write:
            self._take_lock()
        try:
            self._open_as(study)
        except BaseException:
            self.close()
            raise

    def _open_as(self, study: Study | None) -> None:
        if study is not None and not self.path.exists():
            self._create(study)
        self.group, self.study = self._open()
        if study is not None and self.group.attrs["key"] != study.key():
            raise FileError(
                f"{self.where} must be of this study, code and version, but is of study"
                f" {self.study.name!r} of criticality {self.group.attrs['version']} with other content or code"
            )
        self.cells = list(self.study.cells())

    def close(self) -> None:
        """Let others write, and leave no lock behind."""
        if self._lock is not None:
            self._lock_path.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    @property
    def where(self) -> str:
        """What errors call it."""
        return f"store {str(self.path)!r}"

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(self.path.name + ".lock")

    def _take_lock(self) -> None:
        """Held until ``close``; with it, what processes that were killed left beside the store and in it is removed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            self._lock = open(self._lock_path, "a+")  # noqa: SIM115 (kept while writing)
            try:
                _lock(self._lock)
            except (BlockingIOError, PermissionError):
                self._lock.close()
                self._lock = None
                raise FileError(f"{self.where} must not be in use, but another process writes to it") from None
            try:
                if os.fstat(self._lock.fileno()).st_ino == self._lock_path.stat().st_ino:
                    break
            except FileNotFoundError:
                pass
            self._lock.close()  # its holder removed it while this one waited for it
        for part in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.part"):
            shutil.rmtree(part, ignore_errors=True)
        for part in self.path.rglob("*.partial"):
            part.unlink(missing_ok=True)

    def _create(self, study: Study) -> None:
        """Made beside its place and renamed, so that a store is whole or absent."""
        count = sum(1 for _ in study.cells())
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        group = zarr.open_group(part, mode="w")
        group.create_array("status", shape=(count,), chunks=(1,), dtype="int8", fill_value=0, dimension_names=["cell"])
        group.attrs.update(
            {
                "kind": _KIND,
                "schema": SCHEMA,
                "version": __version__,
                "key": study.key(),
                "study": json.dumps(study.record()),
                VARIABLES: ["status"],
                CHECKED: True,
            }
        )
        os.replace(part, self.path)

    def _open(self) -> tuple[Any, Study]:
        try:
            group: Any = zarr.open_group(self.path, mode="r+" if self._lock is not None else "r")
            study = study_of(group)
        except Exception as error:
            raise FileError(f"{self.where} must be a whole store of a criticality study: {error}") from error
        return group, study

    def status(self) -> np.ndarray:
        """Number in ``STATES`` of every cell; the values are not verified."""
        values, unreadable = read_rows(self.group["status"])
        values[(values < 0) | (values > _DAMAGED)] = _DAMAGED
        values[list(unreadable)] = _DAMAGED
        return values

    def _missing(self) -> list[str]:
        return [name for name in self.group.attrs.get(VARIABLES, ()) if not (self.path / name).exists()]

    def forget_missing(self) -> None:
        """Arrays that were deleted are made anew when cells are computed again."""
        if missing := self._missing():
            self.group.attrs[VARIABLES] = [name for name in self.group.attrs[VARIABLES] if name not in missing]

    def counts(self) -> dict[str, int]:
        """How many cells are in each state; those whose status is damaged where there are any."""
        status = self.status()
        found = {name: int(np.sum(status == number)) for number, name in enumerate(STATES)}
        return found if found["damaged"] else {name: count for name, count in found.items() if name != "damaged"}

    def damage(self) -> dict[int, str]:
        """What is wrong with each cell that does not hold what was written of it, by its number.

        Raises:
            ValueError: the metadata of an array cannot be read.
        """
        missing = self._missing()
        if missing:
            return {int(i): f"the array {missing[0]!r} is gone" for i in np.flatnonzero(self.status())}
        return _read(self.group, self.cells, self.where)[1]

    def write(self, results: Mapping[int, Computed]) -> int:
        """Cells by number: values, then status; neighbours together. Returns how many could not be written, as the disk is full."""
        lost = 0
        for run in _neighbours(results):
            try:
                self._write_run(run)
            except OSError:
                for number, computed in run.items() if len(run) > 1 else ():
                    lost += self.write({number: computed})
                lost += len(run) == 1
        return lost

    def _write_run(self, run: Mapping[int, Computed]) -> None:
        """Of cells that follow each other and hold values of the same names and shapes."""
        computed = [self._fitting(one) for one in run.values()]
        first, count = min(run), len(run)
        place = slice(first, first + count)
        if not self._is_open(place):  # computed again: open until it is whole
            self.group["status"][place] = np.zeros(count, dtype="int8")
        rows = {name: np.stack([one.values[name] for one in computed]) for name in computed[0].values}
        rows["seconds"] = np.array([one.seconds for one in computed])
        if any(one.message for one in computed):
            rows["message"] = np.stack([_as_row(one.message) for one in computed])
        for name, values in rows.items():
            array = self._array(name, values[0], str(values.dtype))
            rows[name] = np.full((count, *array.shape[1:]), array.fill_value, array.dtype)
            rows[name][tuple(map(slice, values.shape))] = values
            array[place] = rows[name]
        for name in self.group.attrs[VARIABLES]:
            if name not in (*rows, "status", CHECKSUM):  # what an earlier attempt left
                self.group[name][place] = self.group[name].fill_value
        states = [STATES.index(one.status) for one in computed]
        codes = [
            checksum_of(self.cells[first + i], states[i], {name: values[i] for name, values in rows.items()})
            for i in range(count)
        ]
        self._array(CHECKSUM, np.asarray(0), "uint32")[place] = np.array(codes, dtype="uint32")
        self.group["status"][place] = np.array(states, dtype="int8")

    def _is_open(self, place: slice) -> bool:
        try:
            return not np.any(self.group["status"][place])
        except Exception:  # a damaged chunk
            return False

    def _fitting(self, computed: Computed) -> Computed:
        """A cell whose values have other axes than those of the other cells has failed; other lengths are filled with nan."""
        for name, value in computed.values.items():
            if name in self.group and self.group[name].ndim != 1 + value.ndim:
                others = self.group[name].shape[1:]
                message = f"returned {name!r} of shape {value.shape}, other cells {others}: axes must be as many"
                return Computed(FAILED, {}, message, computed.seconds)
        return computed

    def _array(self, name: str, value: np.ndarray, dtype: str = "float64") -> Any:
        if name not in self.group:
            dims = ["cell", *(f"{name}_{axis}" for axis in range(value.ndim))]
            self.group.create_array(
                name,
                shape=(len(self.cells), *value.shape),
                chunks=(1, *value.shape),
                dtype=dtype,
                fill_value=0 if dtype.startswith("uint") else np.nan,
                compressors=None,
                dimension_names=dims,
            )
        needed = tuple(map(max, self.group[name].shape[1:], value.shape))
        if needed != self.group[name].shape[1:]:  # as profiles of a deeper network: the others are filled with nan
            self.group[name].resize((len(self.cells), *needed))
        known = self.group.attrs.get(VARIABLES, ())
        if name not in known:
            self.group.attrs[VARIABLES] = sorted({*known, *(found for found, _ in self.group.arrays())})
        return self.group[name]

    def messages(self) -> dict[int, str]:
        """Of the cells that left one."""
        if "message" not in self.group:
            return {}
        rows, _ = read_rows(self.group["message"])
        return {int(i): bytes(rows[i]).decode(errors="replace").strip("\0 ") for i in np.flatnonzero(rows.any(axis=1))}

    def dataset(self) -> xr.Dataset:
        """Everything so far, with the parameters as coordinates along ``cell``.

        Raises:
            ValueError: a cell does not hold what was written of it, or an array is gone.
        """
        return dataset_of(self.group, self.cells, self.where)


def _read(group: Any, cells: Sequence[Mapping[str, Any]], where: str) -> tuple[dict[str, Any], dict[int, str]]:
    """All arrays with their dimensions, and what is wrong with which cell."""
    arrays = arrays_of(group, where)
    rows, unreadable = {}, {}
    for name in ("status", *(name for name in arrays if name != "status")):  # a cell that ends meanwhile is open
        rows[name], unreadable[name] = read_rows(arrays[name])
    damaged = damage_of(group, rows, unreadable, cells)
    for index in np.flatnonzero((rows["status"] < 0) | (rows["status"] >= _DAMAGED)):
        damaged[int(index)] = f"its chunk of 'status' holds {int(rows['status'][index])}"
    return {name: (arrays[name].metadata.dimension_names, values) for name, values in rows.items()}, damaged


def dataset_of(group: Any, cells: Sequence[Mapping[str, Any]], where: str) -> xr.Dataset:
    """What the Zarr group of a store holds on its cells, with their parameters as coordinates along ``cell``.

    Raises:
        ValueError: a cell does not hold what was written of it, or an array is gone; ``where`` is what it is called.
    """
    read, damaged = _read(group, cells, where)
    if damaged:
        raise FileError(f"{sentence(where, damaged, cells)}; {REPAIR}")
    names = list(dict.fromkeys(name for cell in cells for name in cell))
    coordinates: dict[str, Any] = {name: ("cell", _column(cells, name)) for name in names}
    coordinates["status"] = ("cell", np.array([STATES[number] for number in read["status"][1]]))
    attrs = {"source": "study", "schema": SCHEMA, "study": group.attrs["study"], "version": group.attrs["version"]}
    hidden = (*coordinates, "message", CHECKSUM)
    return xr.Dataset({name: entry for name, entry in read.items() if name not in hidden}, coordinates, attrs)


def study_of(group: Any) -> Study:
    """The study whose results a Zarr group holds.

    Raises:
        ValueError: a group of another kind, schema or number of cells.
    """
    attrs = dict(group.attrs)
    if attrs.get("kind") != _KIND or attrs.get("schema") != SCHEMA or "status" not in group:
        raise FileError(f"its kind is {attrs.get('kind')!r} and its schema {attrs.get('schema')!r}")
    content = json.loads(str(attrs["study"]))
    study = Study(**{**content, "cases": tuple(content["cases"])})
    if group["status"].shape != (sum(1 for _ in study.cells()),):
        raise FileError("its cells are not those of its study")
    return study


def _neighbours(results: Mapping[int, Computed]) -> list[dict[int, Computed]]:
    """Runs of cells that follow each other and hold values of the same names and shapes."""
    runs: list[dict[int, Computed]] = []
    before: Any = None
    for number, computed in sorted(results.items()):
        shape = {name: value.shape for name, value in computed.values.items()}, bool(computed.message)
        if before != (number - 1, shape):
            runs.append({})
        runs[-1][number] = computed
        before = (number, shape)
    return runs


def _lock(file: Any) -> None:
    """For this process alone; raises ``BlockingIOError`` or ``PermissionError`` where another holds it."""
    with suppress(ImportError):  # only Unix has it
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    with suppress(ImportError):  # only Windows has it
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]


def _as_row(message: str) -> np.ndarray:
    return np.frombuffer(message.encode()[:_MESSAGE].ljust(_MESSAGE), np.uint8)


def _column(cells: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    values = [cell.get(name) for cell in cells]
    if all(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)) for value in values):
        return np.array([np.nan if value is None else value for value in values], dtype=float)
    return np.array(["" if value is None else str(value) for value in values])
