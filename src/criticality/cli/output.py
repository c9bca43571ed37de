"""What verbs print and write."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from criticality.initialized import told
from criticality.lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from criticality import schema
else:
    np, schema = lazy_module("numpy"), lazy_module("criticality.schema")


_OUT: ContextVar[TextIO | None] = ContextVar("out", default=None)


@contextmanager
def prints_aside() -> Iterator[None]:
    """What models and functions of the user's print goes to stderr, so that stdout holds what the verb prints alone."""
    token = _OUT.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _OUT.reset(token)


def say(text: str) -> None:
    """Print what a verb has to say."""
    click.echo(text, file=_OUT.get())


def emit(record: Mapping[str, Any], as_json: bool, text: str) -> None:
    """Print the record as one JSON object, or the text for people; what ``--init`` drew and left is said with it."""
    for one in told():
        click.echo(f"--init: {one.line()}", err=True)
    say(json.dumps(schema.plain(_with_initialized(record))) if as_json else text)


def _with_initialized(record: Mapping[str, Any]) -> dict[str, Any]:
    drawn = [one.record() for one in told()]
    return {**record, "initialized": drawn} if drawn else {**record}


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Aligned columns, six significant digits."""
    from tabulate import tabulate

    return tabulate(rows, headers=headers, floatfmt=".6g", missingval="-")


def with_error(error: float | None, digits: str = ".4f") -> str:
    """A standard error after its number; of one seed, or one run that did not end, there is none."""
    if error is None:
        return ""
    return f" +- {error:{digits}}" if np.isfinite(error) else " (one seed: no standard error)"


def save(result: xr.Dataset | schema.ProfileArrays, out: Path | None) -> None:
    """Write a result where ``--out`` says, and say so."""
    if out is not None:
        dataset = result.dataset() if isinstance(result, schema.ProfileArrays) else result
        click.echo(f"wrote {schema.write_dataset(dataset, out)}", err=True)


def save_json(record: Mapping[str, Any], out: Path | None) -> None:
    """Write a record where ``--out`` says, and say so."""
    if out is not None:
        text = json.dumps(schema.plain(_with_initialized(record)), indent=1) + "\n"
        click.echo(f"wrote {schema.write_text(text, out)}", err=True)


def profile_record(profile: xr.Dataset | schema.ProfileArrays) -> dict[str, Any]:
    """The numbers of a profile at block boundaries, as every verb names them."""
    whole = np.isclose(np.asarray(profile["block"]) % 1, 0)

    def at(name: str) -> np.ndarray:
        return np.asarray(profile[name])[whole]

    record: dict[str, Any] = {
        "block": at("block").astype(int),
        "q_final": float(at("q")[-1]),
        "log_apjn": float(at("log_apjn")[0]),
        "log_apjn_profile": at("log_apjn"),
        "q_profile": at("q"),
        "correlation_profile": at("correlation"),
    }
    if "log_apjn_se" in profile:
        record["log_apjn_se"] = float(at("log_apjn_se")[0])
        record["log_apjn_se_profile"] = at("log_apjn_se")
    return record


def forward_record(dataset: xr.Dataset) -> dict[str, Any]:
    """The numbers of a forward profile, ``log J`` from one block to every block after it."""
    blocks = dataset.sel(target_block=dataset.target_block[np.isclose(dataset.target_block % 1, 0)])
    blocks = blocks.isel(target_block=np.flatnonzero(np.isfinite(blocks.log_apjn.values)))
    record: dict[str, Any] = {
        "target_block": blocks.target_block.values.astype(int),
        "log_apjn": float(blocks.log_apjn[-1]),
        "log_apjn_forward": blocks.log_apjn.values,
    }
    if "log_apjn_se" in blocks:
        record["log_apjn_se"] = float(blocks.log_apjn_se[-1])
        record["log_apjn_forward_se"] = blocks.log_apjn_se.values
    return record


def forward_text(record: Mapping[str, Any], title: str, rows: int = 13) -> str:
    """A forward profile for people, as ``profile_text``."""
    names = {"target_block": "block m", "log_apjn_forward": "log J(l->m)", "log_apjn_forward_se": "standard error"}
    return _rows(record, {name: names[name] for name in names if name in record}, title, rows)


def profile_text(record: Mapping[str, Any], title: str, rows: int = 13) -> str:
    """A profile for people: evenly spaced blocks, first and last always."""
    names = {
        "block": "block l",
        "q_profile": "q",
        "correlation_profile": "correlation",
        "log_apjn_profile": "log J(l->L)",
    }
    if "log_apjn_se_profile" in record:
        names["log_apjn_se_profile"] = "standard error"
    return _rows(record, names, title, rows)


def _rows(record: Mapping[str, Any], names: Mapping[str, str], title: str, rows: int) -> str:
    chosen = np.unique(np.linspace(0, len(record[next(iter(names))]) - 1, rows).round().astype(int))
    lines = [[schema.plain(record[name][i]) for name in names] for i in chosen]
    return f"{title}\n\n{table(lines, list(names.values()))}"
