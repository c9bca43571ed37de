"""The article's studies of trainings on one card, all runs of a study in a few stacks: see README.md.

``python examples/gpu/trainings.py --out FOLDER --minutes 9 factorial_64:260 plane:300 ...``: a study of docs/studies/training, and
how many runs are trained at once.  Each is packed into FOLDER when it ends; one that fails is reported and the next one begun.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import traceback
from pathlib import Path

from criticality.sweeps import pack_study, read_study, run_study

STUDIES = Path(__file__).parents[2] / "docs" / "studies" / "training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", metavar="NAME:RUNS")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=60.0, help="no study is begun after this many")
    parser.add_argument("--folder", type=Path, default=STUDIES, help="of the studies' files")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    began, scratch = time.perf_counter(), Path(tempfile.mkdtemp())
    for asked in given.studies:
        name, _, runs = asked.partition(":")
        if time.perf_counter() - began > 60 * given.minutes:
            print(json.dumps({"study": name, "left out": "no time"}), flush=True)
            continue
        since = time.perf_counter()
        store = scratch / f"{name}.zarr"
        try:
            report = run_study(
                read_study(given.folder / f"{name}.yaml"), store, together=int(runs), device=given.device
            )
            trained = time.perf_counter() - since
            pack_study(store, given.out / f"{name}.zarr.zip")
            said = {"study": name, **report.counts, "seconds": trained, "packed": time.perf_counter() - since - trained}
            print(json.dumps(said), flush=True)
        except Exception:  # the others are begun all the same
            print(json.dumps({"study": name, "failed": traceback.format_exc()[-1500:]}), flush=True)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
