"""Print the seconds that are left of the plan's core hours: ``python docs/studies/core_hours.py HOURS FOLDER [FOLDER ...]``.

A cell counts with the time it took, once, whether it is in a store of a FOLDER or in a pack that the article keeps.  It is time
by the clock: on a machine shared with others more than the processor's, so that the stop comes early, never late.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from criticality.sweeps.pack import open_packed
from criticality.sweeps.store import Store

KEPT = Path(__file__).parents[2] / "examples" / "paper" / "data"


def spent(folders: Sequence[Path], kept: Path = KEPT) -> float:
    """Seconds of all cells of the studies in stores and packs; where a study is in several places, of the one with most."""
    found: dict[str, float] = {}
    for folder in folders:
        for path in sorted((folder / "stores").glob("*.zarr")):
            found[path.stem] = max(found.get(path.stem, 0.0), _seconds(Store(path).group))
    for path in sorted(kept.glob("*.zarr.zip")):
        storage, group = open_packed(path)
        name = path.name.removesuffix(".zarr.zip")
        found[name] = max(found.get(name, 0.0), _seconds(group))
        storage.close()
    return sum(found.values())


def _seconds(group: object) -> float:
    if "seconds" not in group:  # type: ignore[operator]
        return 0.0
    return float(np.nansum(np.asarray(group["seconds"][:])))  # type: ignore[index]


def main(arguments: Sequence[str]) -> None:
    print(max(0, int(3600 * float(arguments[0]) - spent([Path(folder) for folder in arguments[1:]]))))


if __name__ == "__main__":
    main(sys.argv[1:])
