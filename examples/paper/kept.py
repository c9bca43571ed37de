"""The trainings that the article keeps, in ``data``: the planned studies as far as they have come, and the first 150 steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import xarray as xr

from criticality.errors import ArgumentError
from criticality.studies.training import Trainings, read_trainings
from criticality.sweeps import packed_dataset

DATA = Path(__file__).parent / "data"

PLANNED = ("factorial_32", "factorial_16", "long_32", "factorial_64", "families_32", "vit_alpha")
"""Studies of the plan, docs/studies/training/NAME.yaml."""

FIRST_STEPS = ("stability", "stability_warm_up", "stability_muon", "stability_code")
"""docs/studies/NAME.yaml as they were run."""


def kept_trainings(names: Iterable[str] = PLANNED) -> dict[str, Trainings]:
    """What is kept of the planned studies, those of which nothing is there left out."""
    packs = {name: DATA / f"{name}.zarr.zip" for name in names}
    return {name: read_trainings(packed_dataset(pack)) for name, pack in packs.items() if pack.exists()}


def trainings_digest() -> str:
    """Of all packed studies: what was read off them is read again when they have gone on."""
    digest = hashlib.sha256()
    for pack in sorted(DATA.glob("*.zarr.zip")):
        digest.update(pack.name.encode() + pack.read_bytes())
    return digest.hexdigest()


def kept_study(name: str = "stability") -> xr.Dataset:
    """One of the studies of the first 150 steps.

    Raises:
        ValueError: for a name not among ``FIRST_STEPS``.
    """
    if name not in FIRST_STEPS:
        raise ArgumentError(f"study {name!r} must be one of {', '.join(map(repr, FIRST_STEPS))}")
    return xr.load_dataset(DATA / f"{name}.nc", engine="h5netcdf")
