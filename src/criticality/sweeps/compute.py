"""One cell computed, in a worker: what came out, or how it failed."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from criticality.arguments import checked
from criticality.errors import RAISED, ArgumentError, out_of_memory, raised
from criticality.randomness import seed_everything
from criticality.sweeps.study import Cell, Values

RESERVED = ("status", "seconds", "message", "checksum")
"""Names that the store of a study keeps for itself."""

DONE, FAILED, NOT_A_NUMBER, OUT_OF_MEMORY = "done", "failed", "nan", "memory"


@dataclass(frozen=True)
class Computed:
    """What came out of one cell.

    Attributes:
        status: ``DONE``, ``FAILED``, ``NOT_A_NUMBER`` or ``OUT_OF_MEMORY``.
        values: by name; none where it failed.
        message: why it is not done, else empty.
        seconds: by the clock.
    """

    status: str
    values: Values
    message: str
    seconds: float


@checked
def compute_cell(compute: str, cell: Cell, memory_gb: float | None) -> Computed:
    """One cell of a study; nothing that it does is raised."""
    began = time.perf_counter()

    def ended(status: str, values: Values, message: str = "") -> Computed:
        return Computed(status, values, message, time.perf_counter() - began)

    try:
        with _limited(memory_gb):
            found = _function(compute)(dict(cell))
            values = {name: as_floating(value) for name, value in _named(found, cell).items()}
    except RAISED as error:
        status, message = failure(error, memory_gb)
        return ended(status, {}, message)
    bad = [name for name, value in values.items() if value.ndim == 0 and math.isnan(value)]
    return ended(NOT_A_NUMBER, values, f"{bad[0]} is nan") if bad else ended(DONE, values)


def failure(error: BaseException, memory_gb: float | None) -> tuple[str, str]:
    """Status and message of what raised."""
    if not out_of_memory(error):
        return FAILED, raised(error)
    return OUT_OF_MEMORY, "needed more than " + ("there is" if memory_gb is None else f"memory_gb={memory_gb}")


def compute_cells(compute: str, cells: Mapping[int, Cell], memory_gb: float | None) -> dict[int, Computed]:
    """Several cells, by number, in one task, which is cheaper where they are quick."""
    return {number: compute_cell(compute, cell, memory_gb) for number, cell in cells.items()}


def as_floating(value: Any) -> np.ndarray:
    """Of the type that it has where that is a floating one: what is long and needs few digits may come as float16 or float32."""
    found = np.asarray(value)
    return found if found.dtype in (np.float16, np.float32) else found.astype(float)


def _named(found: Any, cell: Cell) -> dict[str, Any]:
    if not isinstance(found, dict):
        return {"value": found}
    for name in found:
        if (
            not isinstance(name, str)
            or not name
            or "/" in name
            or name.startswith((".", "__"))
            or name in (*RESERVED, *cell)
        ):
            raise ArgumentError(
                f"returned a value named {name!r}, which must be text without '/' and none of {', '.join((*RESERVED, *cell))}"
            )
    return found


@contextmanager
def _limited(memory_gb: float | None) -> Iterator[None]:
    """A limit on the data segment, which makes allocations beyond it fail."""
    if memory_gb is None:
        yield
        return
    try:
        import resource
    except ImportError:  # only Unix has it
        resource = None  # type: ignore[assignment]
    if resource is None or sys.platform != "linux":
        raise ArgumentError(f"memory_gb={memory_gb!r} must be left out on {sys.platform}, where it cannot be kept to")

    with open("/proc/self/status") as status:
        now = next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now + int(memory_gb * 2**30), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _function(compute: str) -> Callable[[Cell], Any]:
    if compute.startswith("module:"):
        from criticality.python_file import load_name

        function: Callable[[Cell], Any] = load_name(compute.removeprefix("module:"))
        return function
    return {"predict": _predict, "measure": _measure, "train": _train, "initial": _initial}[compute]


def _predict(cell: Cell) -> dict[str, Any]:
    """``log_apjn`` and ``q_final`` of a residual net (``model`` left out, or ``resnet``) or of a model by name."""
    from criticality.theory import SymmetricKernel, make_norm, propagate, resnet

    if cell.get("model", "resnet") == "resnet":
        norm = make_norm(cell.get("norm", "dyt"), cell.get("alpha"))
        network = resnet(norm, cell.get("depth", 64), cell.get("sigma_w", 1.0) ** 2, cell.get("sigma_b", 0.0) ** 2)
        profile = propagate(network, SymmetricKernel.of(cell.get("q0", 1.0)))
    else:
        from criticality.models import model_spec

        seed = cell.get("seed", 0)
        described = model_spec(**{key: value for key, value in cell.items() if key not in ("seed", "samples")})
        profile = propagate(*described.read(seed), samples=cell.get("samples", 8), seed=seed)
    return {"log_apjn": float(profile.log_apjn[0]), "q_final": float(profile.q[-1])}


def _measure(cell: Cell) -> dict[str, Any]:

    from criticality.measurement import measure
    from criticality.models import model_spec

    seed = cell.get("seed", 0)
    described = model_spec(**{key: value for key, value in cell.items() if key not in ("seed", "probes")})
    seed_everything(seed)
    profile = measure(
        described.build(), described.inputs(), points=described.points, seed=seed, probes=cell.get("probes", 1)
    )
    return {"log_apjn": float(profile.log_apjn[0]), "q_final": float(profile.q[-1])}


def _train(cell: Cell) -> dict[str, Any]:
    import torch

    from criticality.laboratory.names import STACKED
    from criticality.laboratory.records import window_means
    from criticality.laboratory.residual_run import ResidualRun
    from criticality.laboratory.stacked import train_stacked
    from criticality.laboratory.train import Run, train

    torch.set_num_threads(1)
    if cell.get("task") in STACKED:
        return stacked_values(train_stacked(ResidualRun(**cell)))
    if "seeds" in cell:
        return seeds_values(dict(cell))
    result = train(Run(**cell))
    losses = result.loss.values[: int(result.loss.notnull().sum())]
    diverged = bool(result.diverged)
    return {
        "log_apjn": float(result.log_apjn_initial),
        "log_apjn_last": float(result.log_apjn.values[-1, 0]),
        "losses": window_means(result.loss.values),
        "first_gradient": float(result.gradient_norm.values[0]),
        "first_loss": float(losses[0]),
        "last_constant_loss": float(np.mean(result.constant_loss.values[: len(losses)][-10:])),
        "last_loss": math.inf if diverged else float(np.mean(losses[-10:])),
        "score": -math.inf if diverged or not np.isfinite(result.score) else float(result.score),
        "diverged": float(diverged),
        "largest_gradient": float(np.nanmax(np.append(result.gradient_norm.values, 0.0))),
        "step_seconds": float(np.nanmedian(result.step_seconds.values)),
    }


def _initial(cell: Cell) -> dict[str, Any]:
    """A stacked task at initialization (``laboratory.initial``), by seed; ``log_apjn`` is the mean."""
    from criticality.laboratory.initial import initial_values
    from criticality.laboratory.residual_run import ResidualRun

    found = initial_values(ResidualRun(**cell))
    return {**found, "log_apjn_by_run": found["log_apjn"], "log_apjn": float(found["log_apjn"].mean())}


def seeds_values(cell: Cell) -> dict[str, Any]:
    """A task of ``laboratory.train`` with several seeds, as ``stacked_values`` has it, for the same reading.

    ``score`` is the mean over seeds of the test score where the task has one.  A run that diverged scores as a constant guess does
    (0.1), and what it did not come to record is nan.
    """
    from criticality.laboratory.records import geometric_steps
    from criticality.laboratory.train import Run, train

    seeds, first = int(cell.pop("seeds")), int(cell.pop("first_seed", 0))
    results = [train(Run(**{**cell, "seed": first + number})) for number in range(seeds)]
    records = len(geometric_steps(results[0].sizes["train_step"]))
    rows = [_of_seed(result, records) for result in results]
    kept = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return kept_of_seeds(
        kept | {"step_seconds": np.array([np.nanmedian(result.step_seconds.values) for result in results])}
    )


def kept_of_seeds(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a study keeps of the runs of a cell, ``(seeds, ...)`` by name as of ``stacked_vit.train_vits``: series in few digits,
    means over seeds for tables."""
    kept: dict[str, Any] = {name: values for name, values in found.items() if name != "step_seconds"}
    with np.errstate(over="ignore"):
        for name in ("loss_series", *(f"{name}_series" for name in _PROFILES)):
            if name in kept:
                kept[name] = kept[name].astype(np.float16)
    return kept | {
        "log_apjn": float(kept["log_apjn_by_run"].mean()),
        "log_q_last": float(kept["log_q_series"][:, 0, -1].astype(float).mean()),
        "score": float(kept["test_accuracy"].mean()),
        "step_seconds": float(found["step_seconds"].mean()),
    }


_PROFILES = ("log_apjn", "log_q", "log_slope", "saturated", "correlation", "attention_entropy")
_CHANCE = 0.1


def _of_seed(result: Any, records: int) -> dict[str, np.ndarray]:
    """One run; profiles ``(records, ...)``, filled with nan from where it diverged."""
    from criticality.laboratory.records import WINDOW, window_means
    from criticality.laboratory.stacked import largest_spike

    losses = result.loss.values
    diverged, finite = bool(result.diverged), losses[np.isfinite(losses)]
    scores = {"validation": float(result.score), "test": float(result.get("test_score", result.score))}
    found: dict[str, Any] = {
        f"{part}_accuracy": _CHANCE if diverged or not math.isfinite(value) else value for part, value in scores.items()
    }
    found |= {
        "loss_series": window_means(losses),
        "diverged": float(diverged),
        "diverged_at": float(result.diverged_at),
        "first_loss": losses[0],
        "last_loss": math.inf if diverged else float(losses[-WINDOW:].mean()),
        "largest_loss": float(finite.max(initial=-math.inf)),
        "largest_spike": float(largest_spike(losses[None])[0]),
        "log_apjn_by_run": float(result.log_apjn_initial),
    }
    steps = np.array(result.record.values)
    for name in (*_PROFILES, "update", "stream_change"):
        if f"recorded_{name}" in result:
            values = result[f"recorded_{name}"].values
            full = np.full((records, *values.shape[1:]), np.nan, np.float32)
            full[: len(steps)] = values
            found[f"{name}_series"] = full
    return {name: np.asarray(value) for name, value in found.items()}


_SCALARS = ("diverged", "diverged_at", "first_loss", "last_loss", "largest_loss", "largest_spike")


def stacked_values(result: Any) -> dict[str, Any]:
    """What a study keeps of ``train_stacked``: numbers by run, series and profiles in few digits, as there are thousands.

    Scalars of each cell for tables: ``log_apjn`` and ``log_q_last`` at initialization and ``score``, means over runs.
    """
    ends = {part: result[f"{part}_accuracy"].values for part in ("validation", "test")}
    kept: dict[str, Any] = {name: result[name].values for name in _SCALARS}
    for part, accuracy in ends.items():
        kept[f"{part}_accuracy"], kept[f"{part}_loss"] = accuracy, result[f"{part}_loss"].values
    for name in ("loss", "accuracy", "log_apjn", "log_q", "log_slope", "saturated", "correlation"):
        with np.errstate(over="ignore"):
            kept[f"{name}_series"] = result[name].values.astype(np.float16)
    for name in ("update", "stream_change", "gradient_norm"):
        kept[f"{name}_series"] = result[name].values.astype(np.float32)
    start, depth = result.isel(record=0), result.sizes["point"] - 1
    return kept | {
        "log_apjn_by_run": start.log_apjn.values[:, 0].astype(float),
        "log_apjn": float(start.log_apjn.values[:, 0].mean()),
        "log_q_last": float(start.log_q.values[:, depth].mean()),
        "score": float(np.mean(ends["test"])),
        "step_seconds": float(result.seconds_per_step) / result.sizes["run"],
    }
