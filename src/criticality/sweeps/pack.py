"""A store in one file, and back: to be committed or sent, and gone on with."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from criticality.arguments import checked
from criticality.errors import ArgumentError, CriticalityError, FileError
from criticality.extras import require
from criticality.schema import whole_or_absent
from criticality.sweeps.integrity import sentence
from criticality.sweeps.store import REPAIR, Store, dataset_of, study_of

__all__ = [
    "open_packed",
    "pack_study",
    "packed_dataset",
    "unpack_study",
]

zarr = require("zarr")


@checked
def pack_study(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write a store as one zipped Zarr, each variable one compressed chunk; what runs on meanwhile is in it up to whole cells.

    Raises:
        ValueError: as ``Store``; another ending than ``.zarr.zip``.
    """
    target = _checked(out)
    store = Store(path)
    damaged = store.damage()
    if damaged:
        raise FileError(f"{sentence(store.where, damaged, store.cells)}; {REPAIR}")
    source = store.group
    status = np.asarray(source["status"][:])  # first: a cell that ends meanwhile is open in the pack, not half in it
    with whole_or_absent(target) as file:
        storage = zarr.storage.ZipStore(file, mode="w")
        group = zarr.open_group(storage, mode="w", attributes=dict(source.attrs))
        for name, array in sorted(source.arrays()):
            values = status if name == "status" else np.asarray(array[:])
            if name != "status":
                values[status == 0] = array.fill_value
            _create(group, name, array, chunks=values.shape, compressed=True)[:] = values
        storage.close()
    return target


@checked
def unpack_study(packed: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Write a packed store as a folder that ``run_study`` goes on with.

    Raises:
        ValueError: a pack that cannot be read; a ``path`` that exists.
    """
    source_path, target = _checked(packed), Path(path)
    if target.exists():
        raise ArgumentError(f"path={str(target)!r} must not exist, as what is in it would be lost")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    packed_dataset(source_path)  # verified
    storage, source = open_packed(source_path)
    try:
        group = zarr.open_group(part, mode="w")
        for name, array in source.arrays():
            _create(group, name, array, chunks=(1, *array.shape[1:]), compressed=False)[:] = np.asarray(array[:])
        group.attrs.update(dict(source.attrs))
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        storage.close()
    return target


@checked
def packed_dataset(path: str | os.PathLike[str]) -> xr.Dataset:
    """What a packed store holds, as ``Store.dataset``.

    Raises:
        ValueError: not a packed store of a study.
    """
    storage, group = open_packed(_checked(path))
    where = f"packed study {str(path)!r}"
    with closing(storage):
        try:
            cells = list(study_of(group).cells())
        except (CriticalityError, json.JSONDecodeError, KeyError, TypeError) as error:  # attributes that are damaged
            raise FileError(f"{where} must be a whole study of criticality: {error}") from error
        return dataset_of(group, cells, where).load()


def open_packed(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """The storage, to be closed, and the group of a packed store.

    Raises:
        ValueError: not a packed store.
    """
    try:
        storage = zarr.storage.ZipStore(Path(path), mode="r")
        return storage, zarr.open_group(storage, mode="r")
    except Exception as error:
        raise FileError(f"packed study {str(path)!r} must be a zipped Zarr of criticality: {error}") from error


def _checked(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if not target.name.endswith(".zarr.zip"):
        raise ArgumentError(f"packed study {str(target)!r} must end in .zarr.zip")
    return target


def _create(group: Any, name: str, like: Any, chunks: tuple[int, ...], compressed: bool) -> Any:
    return group.create_array(
        name,
        shape=like.shape,
        chunks=chunks,
        dtype=like.dtype,
        fill_value=like.fill_value,
        compressors="auto" if compressed else None,
        dimension_names=like.metadata.dimension_names,
    )
