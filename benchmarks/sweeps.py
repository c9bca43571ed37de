"""What the sweep engine costs, and what a second worker brings, ``python benchmarks/sweeps.py``."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from criticality.sweeps.run import run_study
from criticality.sweeps.store import Store
from criticality.sweeps.study import Study
from side_by_side import machine

BUSY = """
import time


def busy(cell):
    end, n = time.process_time() + 0.5, 0
    while time.process_time() < end:
        n += 1
    return float(n)
"""


def timed(study: Study, folder: Path, workers: int) -> tuple[float, float]:
    """Seconds between the first and the last cell, and the cells' own seconds together."""
    marks: list[float] = []
    run_study(study, folder, workers=workers, progress=lambda steps, status: marks.append(time.perf_counter()))
    return marks[-1] - marks[0], float(np.nansum(Store(folder).dataset().seconds))


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        depths = list(range(1, 51))
        alphas = np.round(np.geomspace(0.1, 4, 200), 6).tolist()
        theory = Study("theory", "predict", {"depth": depths, "alpha": alphas}, {"norm": "dyt"})
        wall, own = timed(theory, root / "theory.zarr", 2)
        count = len(depths) * len(alphas)
        overhead = 1000 * (wall - own / 2) / count  # two cores, both busy
        print(
            f"{count} theory cells, two workers: {wall:.1f} s, own work {own:.1f} s, overhead {overhead:.2f} ms a cell"
        )
        (root / "busy.py").write_text(BUSY)
        busy = Study("busy", f"module:{root / 'busy.py'}:busy", {"x": list(range(60))})
        taken = {workers: timed(busy, root / f"busy{workers}.zarr", workers)[0] for workers in (1, 2)}
        print(
            f"60 cells of 0.5 s: {taken[1]:.1f} s with one worker, {taken[2]:.1f} s with two: {taken[1] / taken[2]:.2f} times"
        )


if __name__ == "__main__":
    main()
