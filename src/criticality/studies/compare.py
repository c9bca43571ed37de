"""Theory against measurement: models built, measured and predicted, case by case, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from criticality import __version__
from criticality.arguments import Threads, checked
from criticality.errors import FileError
from criticality.initialized import Initialized, heard, tell
from criticality.models import ModelSpec
from criticality.moved import renamed_names
from criticality.schema import (
    SCHEMA,
    check_can_be_made,
    plain,
    read_dataset,
    require_variables,
    source_digest,
    write_dataset,
    write_text,
)
from criticality.studies.agreement import fold_errors, standard_errors, verdict
from criticality.studies.apart import results_apart
from criticality.studies.case import run_case
from criticality.studies.comparison import OWN_NORM, Comparison, case_label

__all__ = [
    "OWN_NORM",
    "Comparison",
    "asdict_keys",
    "case_label",
    "compare",
    "gather",
    "run_case",
    "steps_per_case",
    "summary",
    "verdict",
]

__getattr__ = renamed_names(__name__)


@checked
def compare(
    comparison: Comparison,
    out: str | Path,
    progress: Callable[[str, int], None] | None = None,
    *,
    workers: Threads = 1,
) -> xr.Dataset:
    """Run every case that ``out`` does not hold yet, and gather all of them.

    Each finished case is one file ``cases/*.nc``, written whole; after each, ``result.nc`` and ``summary.json`` hold
    all finished cases.  A rerun with the same comparison, library and timm takes up where the last one stopped.

    Args:
        progress: ``progress(label, steps)`` is called as work is done, ``steps_per_case`` steps to a case.
        workers: cases at once; from two on each in a process of its own, with its share of the cores. The numbers are the same.

    Returns:
        Dataset over ``case`` and ``block`` (``0 .. depth``), see ``gather``.

    Raises:
        ValueError: a case file of this comparison that is corrupt; an ``out`` that cannot be made or written.
        UnreachableError: a process of ``workers`` that was ended from outside.
    """
    folder = Path(out)
    if folder.is_file():
        raise FileError(f"out={str(folder)!r} must be a folder, and is a file")
    check_can_be_made(folder / "cases")
    paths = {case: folder / "cases" / _file_name(comparison, case) for case in comparison.cases()}
    computed = _computed(comparison, [case for case, path in paths.items() if not path.exists()], workers, progress)
    finished: list[xr.Dataset] = []
    for case, path in paths.items():
        if path.exists():
            finished.append(read_dataset(path))
            if progress is not None:
                progress(case_label(case), steps_per_case(comparison))
        else:
            finished.append(next(computed))
            write_dataset(finished[-1], path)
        result = gather(finished, comparison)
        write_dataset(result, folder / "result.nc")
        write_text(json.dumps(summary(result), indent=1) + "\n", folder / "summary.json")
    return result


def _file_name(comparison: Comparison, case: ModelSpec) -> str:
    return f"{case_label(case).replace(' ', '_').replace('=', '')}-{_key(comparison, case)}.nc"


def _computed(
    comparison: Comparison,
    cases: Sequence[ModelSpec],
    workers: int,
    progress: Callable[[str, int], None] | None,
) -> Iterator[xr.Dataset]:
    """The cases in order, here or in processes, of which none is started before the first is asked for."""
    workers = min(workers, len(cases))
    if workers < 2:
        yield from (run_case(comparison, case, progress) for case in cases)
        return
    found = results_apart(partial(_apart, comparison), cases, workers)
    with closing(found):
        for case, (dataset, drawn) in zip(cases, found, strict=True):
            for one in drawn:
                tell(one)
            if progress is not None:
                progress(case_label(case), steps_per_case(comparison))
            yield dataset


def _apart(comparison: Comparison, case: ModelSpec) -> tuple[xr.Dataset, list[Initialized]]:
    """One case, and what its initialization is to be told of in the process that asks."""
    with heard() as drawn:
        return run_case(comparison, case), drawn


@checked
def steps_per_case(comparison: Comparison) -> int:
    """Progress steps of one case: one for each seed, one for the prediction."""
    return comparison.seeds + 1


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _key(comparison: Comparison, case: ModelSpec) -> str:
    settings = {name: getattr(comparison, name) for name in ("seeds", "seed", "probes", "samples", "probe")}
    made_by = {
        "criticality": __version__,
        "source": source_digest("pointwise", "theory", "stream", "weightless", "measurement", "models"),
        "timm": _installed("timm"),
        "schema": SCHEMA,
    }
    described = {"kind": type(case).__name__, **asdict(case)}  # type: ignore[call-overload]
    text = json.dumps({**described, **settings, **made_by}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def gather(cases: Sequence[xr.Dataset], comparison: Comparison) -> xr.Dataset:
    """All cases in one dataset, with ``deviation``, what is ``allowed`` and whether they ``agree``.

    ``log_apjn_symmetric`` is the theory of equivalent tokens, for contrast; ``allowed`` is ``tolerance_of`` the
    case and ``standard_errors`` of measurement and prediction together.
    """
    result = xr.concat(list(cases), "case", combine_attrs="override")
    result["deviation"] = abs(result.log_apjn_predicted - result.log_apjn_measured)
    error = np.hypot(result.log_apjn_se, result.log_apjn_predicted_se)
    result["allowed"] = result.tolerance + standard_errors(comparison.seeds) * error
    settings = {key: json.dumps(value) for key, value in asdict(comparison).items()}
    return result.assign_attrs(source="comparison", schema=SCHEMA, version=__version__, **settings)


@checked
def summary(result: xr.Dataset) -> dict[str, Any]:
    """The comparison as JSON: settings, and for each case its profiles, largest deviation and verdict.

    Raises:
        ArgumentError: a dataset that is no comparison.
    """
    require_variables(result, "result", "log_apjn_predicted", "log_apjn_measured", "deviation", "allowed", "tolerance")
    cases = []
    for index in range(result.sizes["case"]):
        case = result.isel(case=index)
        excess = (case.deviation - case.allowed).values
        worst = int(np.nanargmax(case.deviation.values))
        cases.append(
            {
                "norm": str(case.norm.values),
                "alpha": plain(float(case.alpha)),
                "init": str(case.init.values),
                "way": str(case.way.values),
                "log_apjn_predicted": plain(case.log_apjn_predicted.values),
                "log_apjn_measured": plain(case.log_apjn_measured.values),
                "log_apjn_se": plain(case.log_apjn_se.values),
                "log_apjn_symmetric": plain(case.log_apjn_symmetric.values),
                "largest_deviation": plain(float(case.deviation[worst])),
                "largest_deviation_block": int(case.block[worst]),
                "largest_allowed": plain(float(case.allowed.max())),
                "tolerance": plain(float(case.tolerance)),
                "verdict": verdict(excess),
                **fold_errors(case),
            }
        )
    settings = {key: json.loads(result.attrs[key]) for key in asdict_keys(result)}
    return {"criticality": __version__, **settings, "cases": cases}


def asdict_keys(result: xr.Dataset) -> list[str]:
    """Names of the comparison's settings among the attributes of a gathered dataset."""
    return [name for name in Comparison.__dataclass_fields__ if name in result.attrs]
