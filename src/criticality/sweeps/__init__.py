"""Studies over grids of networks: described in YAML, run through Dask, kept cell by cell in one labelled Zarr store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticality.lazy import lazy_names

if TYPE_CHECKING:
    from criticality.sweeps.compute import compute_cell
    from criticality.sweeps.pack import pack_study, packed_dataset, unpack_study
    from criticality.sweeps.run import Report, export_study, run_study
    from criticality.sweeps.store import Store
    from criticality.sweeps.study import Study, read_study

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "compute": ("compute_cell",),
        "pack": ("pack_study", "packed_dataset", "unpack_study"),
        "run": ("Report", "export_study", "run_study"),
        "store": ("Store",),
        "study": ("Study", "read_study"),
    },
)

__all__ = [
    "Report",
    "Store",
    "Study",
    "compute_cell",
    "export_study",
    "pack_study",
    "packed_dataset",
    "read_study",
    "run_study",
    "unpack_study",
]
