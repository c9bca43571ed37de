"""``criticality sweep``: studies over grids, resumable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from criticality.cli.options import COUNT, FILE, WORKERS, common
from criticality.cli.output import emit, table
from criticality.cli.progress import bar
from criticality.errors import CriticalityError, FileError

if TYPE_CHECKING:
    from criticality.sweeps.run import Report
    from criticality.sweeps.study import Study

F = TypeVar("F", bound=Callable[..., Any])


def _running(function: F) -> F:
    for option in (
        click.option(
            "--retry",
            is_flag=True,
            help="Compute cells again that failed, returned nan, ran out of memory or are damaged.",
        ),
        click.option(
            "--workers",
            type=WORKERS,
            default=2,
            show_default=True,
            help="Processes started here; 0: one cell after another in this one, as a study that searches needs.",
        ),
        click.option(
            "--together",
            type=COUNT,
            help="Train this many runs at once in one stack, in this process, as a card does as fast as one.",
        ),
        click.option("--device", default="cpu", show_default=True, help="Of torch, with --together."),
        click.option("--scheduler", help="Of a Dask cluster, tcp://HOST:PORT [default: processes on this machine]."),
    ):
        function = option(function)
    return function


@click.group()
def sweep() -> None:
    """Studies over grids of networks, through Dask, kept cell by cell in a Zarr store."""


@sweep.command()
@click.argument("study", type=FILE)
@_running
@common
def run(study: Path, as_json: bool, seed: int, out: Path | None, **options: Any) -> None:
    """Run STUDY (YAML) into the Zarr store --out [default: the study's name + .zarr]; takes up what is there.

    Seeds are parameters of a study: --seed changes nothing.
    """
    from criticality.sweeps.study import read_study

    _check_device(options["device"])
    described = read_study(study)
    _run(described, out or Path(f"{described.name}.zarr"), as_json, options)


@sweep.command()
@click.argument("store", type=FILE)
@_running
@common
def resume(store: Path, as_json: bool, seed: int, out: Path | None, **options: Any) -> None:
    """Go on with the study that STORE holds."""
    from criticality.sweeps.store import Store

    _check_device(options["device"])
    _run(Store(store).study, store, as_json, options)


def _check_device(device: str) -> None:
    """Before anything is read; torch is not imported for the usual one."""
    if device != "cpu":
        from criticality.devices import torch_device

        torch_device(device)


def _run(study: Study, store: Path, as_json: bool, options: dict[str, Any]) -> None:
    from criticality.sweeps.run import run_study
    from criticality.sweeps.store import Store

    total = sum(1 for _ in study.cells())
    try:
        with bar(total, study.name) as advance:
            if store.exists():
                counts = Store(store).counts()
                advance("resumed", counts["done"] if options["retry"] else total - counts["open"])
            report = run_study(study, store, progress=lambda steps, status: advance(status, steps), **options)
    except KeyboardInterrupt:
        click.echo(
            f"criticality: interrupted; finished cells are in {store}: criticality sweep resume {store}", err=True
        )
        raise click.exceptions.Exit(130) from None
    _emit(study, store, report, as_json)


def _emit(study: Study, store: Path, report: Report, as_json: bool) -> None:
    from criticality.sweeps.store import Store

    record = {
        "study": study.name,
        "store": str(store),
        **report.counts,
        "computed": report.computed,
        "not_written": report.not_written,
    }
    emit(record, as_json, table([[key, value] for key, value in record.items()], ["", ""]))
    if report.not_written:
        raise FileError(f"store {str(store)!r} must have room, but {report.not_written} cells could not be written")
    if report.damaged:
        raise FileError(report.damaged)
    if not report.counts["done"] and not report.counts["open"]:
        index, why = next(iter(Store(store).messages().items()))
        raise CriticalityError(
            f"study {study.name!r} must have cells that can be computed, but all {sum(report.counts.values())} failed;"
            f" the first ({Store(store).cells[index]}): {why}"
        )


@sweep.command()
@click.argument("store", type=FILE)
@common
def status(store: Path, as_json: bool, seed: int, out: Path | None) -> None:
    """How many cells of STORE are done, open or failed, and why."""
    from criticality.sweeps.search import progress_of
    from criticality.sweeps.store import STATES, Store

    found = Store(store)
    messages = found.messages()
    failed = [{"cell": found.cells[i], "status": STATES[found.status()[i]], "why": why} for i, why in messages.items()]
    damaged = [{"cell": found.cells[i], "status": "damaged", "why": why} for i, why in found.damage().items()]
    record = {"study": found.study.name, **found.counts(), "failed_cells": failed}
    if damaged:
        record["damaged_cells"] = damaged
    if found.study.search:
        record["searches_ended"], record["searches"] = progress_of(found.study, found)
    lines = [[key, value] for key, value in record.items() if not key.endswith("_cells")]
    for listed in (failed, damaged):
        lines += [[entry["status"], f"{entry['cell']}: {entry['why']}"] for entry in listed[:10]]
        lines += [[listed[0]["status"], f"{len(listed) - 10} more: --json has all"]] if len(listed) > 10 else []
    emit(record, as_json, table(lines, ["", ""]))


@sweep.command()
@click.argument("store", type=FILE)
@common
def export(store: Path, as_json: bool, seed: int, out: Path | None) -> None:
    """Write STORE as NetCDF or CSV, by the ending of --out [default: STORE with .nc]."""
    from criticality.sweeps.run import export_study

    written = export_study(store, out or store.with_suffix(".nc"))
    emit({"wrote": str(written)}, as_json, f"wrote {written}")


@sweep.command()
@click.argument("store", type=FILE)
@common
def pack(store: Path, as_json: bool, seed: int, out: Path | None) -> None:
    """Write STORE, running or not, as one file --out [default: STORE + .zip], which unpack makes a store of again."""
    from criticality.sweeps.pack import pack_study

    written = pack_study(store, out or store.with_name(store.name + ".zip"))
    emit({"wrote": str(written)}, as_json, f"wrote {written}")


@sweep.command()
@click.argument("packed", type=FILE)
@common
def unpack(packed: Path, as_json: bool, seed: int, out: Path | None) -> None:
    """Make a store of PACKED at --out [default: PACKED without .zip], which run and resume go on with."""
    from criticality.sweeps.pack import unpack_study

    written = unpack_study(packed, out or packed.with_suffix(""))
    emit({"wrote": str(written)}, as_json, f"wrote {written}")
