"""Whether a store holds of each cell what was written: a checksum per cell, verified when it is read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from criticality.errors import FileError, first_sentence

CHECKSUM = "checksum"
"""Array of a store, ``(cell,)``: CRC-32 of what was written of each cell, 0 where nothing is known (older stores)."""

VARIABLES = "variables"
"""Attribute of a store: the names of its arrays, so that one that was deleted is missed."""

CHECKED = "checksums"
"""Attribute of a store: that every cell that was computed has a checksum."""


def checksum_of(cell: Mapping[str, Any], status: int, rows: Mapping[str, np.ndarray]) -> int:
    """CRC-32, never 0, of a cell's parameters, its status and its row of each array.

    Rows that hold nothing (all nan, or all 0 for whole numbers, as of a chunk that was never written) count as absent, and so
    does nan at the end of an axis: arrays that other cells add or lengthen later change nothing.
    """
    return _checksum(cell, status, {name: _without_end(row) for name, row in rows.items()})


def _checksum(cell: Mapping[str, Any], status: int, rows: Mapping[str, np.ndarray]) -> int:
    code = zlib.crc32(json.dumps([dict(cell), status], sort_keys=True, default=str).encode())
    for name in sorted(rows):
        if not _is_empty(rows[name]):
            code = zlib.crc32(f"{name} {rows[name].dtype.str} {rows[name].shape}".encode(), code)
            code = zlib.crc32(np.ascontiguousarray(rows[name]).tobytes(), code)
    return code or 1


def _without_end(row: np.ndarray) -> np.ndarray:
    """A row of floating numbers up to the last number along each axis."""
    if row.dtype.kind != "f" or not row.ndim:
        return row
    there = np.nonzero(~np.isnan(row))
    return row[tuple(slice(int(places.max(initial=-1)) + 1) for places in there)]


def _is_empty(row: np.ndarray) -> bool:
    return bool(np.isnan(row).all()) if row.dtype.kind == "f" else not row.any()


def arrays_of(group: Any, where: str) -> dict[str, Any]:
    """The arrays of a store's group by name; ``where`` is what errors call it.

    Raises:
        ValueError: one that was written is gone, or its metadata cannot be read.
    """
    names = list(group.attrs.get(VARIABLES, ()))
    try:
        names += [name for name, _ in group.arrays() if name not in names]
    except Exception as error:
        if not names:
            raise FileError(f"{where} must have arrays whose zarr.json is whole: {_brief(error)}") from error
    found = {}
    for name in names:
        try:
            found[name] = group[name]
        except KeyError:
            raise FileError(f"{where} must hold the array {name!r} that was written to it, but it is gone") from None
        except Exception as error:
            raise FileError(
                f"{where} must hold the array {name!r}, but its zarr.json is damaged: {_brief(error)}"
            ) from error
    return found


def read_rows(array: Any) -> tuple[np.ndarray, dict[int, str]]:
    """All rows of an array, and why, by cell, those cannot be read that cannot; they are filled."""
    try:
        return np.asarray(array[:]), {}
    except Exception:
        rows = np.full(array.shape, array.fill_value, array.dtype)
    unreadable = {}
    for index in range(array.shape[0]):
        try:
            rows[index] = array[index]
        except Exception as error:
            unreadable[index] = _brief(error)
    return rows, unreadable


def damage_of(
    group: Any,
    arrays: Mapping[str, np.ndarray],
    unreadable: Mapping[str, Mapping[int, str]],
    cells: Sequence[Mapping[str, Any]],
) -> dict[int, str]:
    """What is wrong with each cell that does not hold what was written of it, by its number.

    Args:
        group: of the store, for its attributes.
        arrays: every array of it, as ``read_rows`` gives it.
        unreadable: by array and cell, why.
        cells: parameters of all cells.
    """
    found: dict[int, str] = {}
    for name, failures in unreadable.items():
        for index, why in failures.items():
            found.setdefault(index, f"its chunk of {name!r} cannot be read ({why})")
    if CHECKSUM not in arrays:
        return found
    status, codes = arrays["status"], arrays[CHECKSUM]
    rows = {name: values for name, values in arrays.items() if name not in ("status", CHECKSUM)}
    for index in map(int, np.flatnonzero(status)):
        if index in found or (codes[index] == 0 and not group.attrs.get(CHECKED)):
            continue
        row = {name: values[index] for name, values in rows.items()}
        of = cells[index], int(status[index]), row
        if codes[index] not in (checksum_of(*of), _checksum(*of)):  # the second of stores whose rows all had one length
            empty = [name for name in row if name != "message" and _is_empty(row[name]) and not _is_empty(rows[name])]
            found[index] = "what it holds is not what was written" + (f" (nothing in {empty[0]!r})" if empty else "")
    return found


def sentence(where: str, damaged: Mapping[int, str], cells: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on the first damaged cell and how many there are."""
    first = min(damaged)
    others = f", and {len(damaged) - 1} more" if len(damaged) > 1 else ""
    named = ", ".join(f"{name}={value!r}" for name, value in cells[first].items())
    return f"{where} must hold what was written to it, but of cell {first} ({named}) {damaged[first]}{others}"


def _brief(error: Exception) -> str:
    return first_sentence(str(error)) or type(error).__name__
