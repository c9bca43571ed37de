"""``criticality measure``: log APJN of a real model with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from criticality.cli.options import (
    FROM,
    MODE,
    PROBE,
    SEEDS,
    Mode,
    OneOf,
    common,
    left_out,
    measurement,
    model_changes,
    model_norm,
)
from criticality.cli.output import emit, forward_record, forward_text, profile_record, profile_text, save, with_error
from criticality.cli.progress import bar
from criticality.errors import ArgumentError
from criticality.randomness import seed_everything

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr

    from criticality.models import ModelSpec


@click.command()
@click.argument("model")
@model_norm
@click.option("--seeds", type=SEEDS, default=4, show_default=True, help="Weight seeds, from --seed on.")
@click.option("--dtype", type=OneOf(["float32", "float64", "bfloat16"]), default="float32", show_default=True)
@click.option("--between", is_flag=True, help="J between every two blocks, one seed; --out also gets a heat map.")
@measurement
@PROBE
@MODE
@FROM
@model_changes
@common
def measure(
    model: str,
    seeds: int,
    probes: int,
    device: str,
    dtype: str,
    between: bool,
    probe: str,
    mode: Mode,
    source: int | None,
    as_json: bool,
    seed: int,
    out: Path | None,
    **options: Any,
) -> None:
    """Measure kernels and log APJN of MODEL at initialization, on two photographs or stretches of source code.

    MODEL is "timm:NAME", "hf:PATH/config.json", "hf:MODEL_TYPE" or "module:PATH.py:FACTORY". Averages over weight seeds;
    the standard error is over seeds.
    """
    import torch

    from criticality.devices import torch_device
    from criticality.models import model_spec

    description = model_spec(model, **options)
    inputs = description.inputs(seed)
    settings: dict[str, Any] = {"device": torch_device(device), "dtype": getattr(torch, dtype)}
    if probe != "normal" and (between or source is not None):
        raise ArgumentError(
            f"probe={probe!r} must be 'normal' with --between and --from, which do not start at the end"
        )
    if between:
        left_out("measure --between")
        record, text = _between(model, description, inputs, seed, out, settings)
    elif source is not None:
        left_out("measure --from")
        settings["tangents"] = probes
        record, text = _from(model, description, inputs, source, range(seed, seed + seeds), out, settings)
    else:
        settings |= {"probes": probes, "probe": probe, "mode": mode}
        record, text = _backward(model, description, inputs, range(seed, seed + seeds), options, out, settings)
    emit(record, as_json, text)


Shown = tuple[dict[str, Any], str]
"""The record, and what people read."""


def _between(
    model: str, description: ModelSpec, inputs: Any, seed: int, out: Path | None, settings: dict[str, Any]
) -> Shown:
    """``J`` between every two blocks, of one seed."""

    from criticality.measurement import measure_between

    seed_everything(seed)
    pairs = measure_between(description.build(), inputs, points=description.points, seed=seed, **settings)
    save(pairs, out)
    if out is not None:
        from criticality.reports import heat_map, save_figure

        save_figure(heat_map(pairs, title=f"{model}, {description.norm or 'own norm'}"), out.with_suffix(""))
    record = {"model": model, "log_apjn": pairs.log_apjn.values}
    return record, f"{model}: log J(0->L) = {float(pairs.log_apjn[0, -1]):.4f}"


def _over_seeds(
    measure: Callable[..., xr.Dataset], description: ModelSpec, inputs: Any, seeds: range, settings: dict[str, Any]
) -> xr.Dataset:
    """An ensemble of the described model, with a bar."""
    with bar(len(seeds), "measure") as advance:
        return measure(
            lambda _: description.build(),
            inputs,
            seeds,
            points=description.points,
            progress=lambda done: advance(f"seed {done}", 1),
            **settings,
        )


def _from(
    model: str,
    description: ModelSpec,
    inputs: Any,
    source: int,
    seeds: range,
    out: Path | None,
    settings: dict[str, Any],
) -> Shown:
    """``J`` from one block to all that follow."""
    from criticality.measurement import measure_forward_ensemble

    forward = _over_seeds(measure_forward_ensemble, description, inputs, seeds, {"start": source, **settings})
    record = {"model": model, "from": source, "seeds": len(seeds), **forward_record(forward)}
    save(forward, out)
    title = f"{model}: log J({source}->L) = {record['log_apjn']:.4f}{with_error(record['log_apjn_se'])}"
    return record, forward_text(record, title)


def _backward(
    model: str,
    description: ModelSpec,
    inputs: Any,
    seeds: range,
    options: dict[str, Any],
    out: Path | None,
    settings: dict[str, Any],
) -> Shown:
    """The profile ``J(l -> L)``."""
    from criticality.measurement import measure_ensemble

    dataset = _over_seeds(measure_ensemble, description, inputs, seeds, settings)
    record = {"model": model, "norm": options["norm"], "alpha": options["alpha"], "seeds": len(seeds)}
    record |= {"probe": settings["probe"], "mode": dataset.attrs["mode"], **profile_record(dataset)}
    save(dataset, out)
    shown = "" if dataset.attrs["mode"] == "evaluation" else f" ({dataset.attrs['mode']})"
    title = f"{model}: log J(0->L) = {record['log_apjn']:.4f}{with_error(record['log_apjn_se'])}{shown}"
    return record, profile_text(record, title)
