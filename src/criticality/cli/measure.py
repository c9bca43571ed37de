"""``criticality measure``: log APJN of a real model with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from criticality.cli.output import emit, forward_record, forward_text, profile_record, profile_text, save
from criticality.cli.progress import bar
from criticality.errors import ArgumentError


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
    from criticality.measurement import measure_between, measure_ensemble, measure_forward_ensemble
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
        torch.manual_seed(seed)
        pairs = measure_between(description.build(), inputs, points=description.points, seed=seed, **settings)
        save(pairs, out)
        if out is not None:
            from criticality.reports import heat_map, save_figure

            save_figure(heat_map(pairs, title=f"{model}, {description.norm or 'own norm'}"), out.with_suffix(""))
        record: dict[str, Any] = {"model": model, "log_apjn": pairs.log_apjn.values}
        emit(record, as_json, f"{model}: log J(0->L) = {float(pairs.log_apjn[0, -1]):.4f}")
        return
    if source is not None:
        left_out("measure --from")
        with bar(seeds, "measure") as advance:
            forward = measure_forward_ensemble(
                lambda _: description.build(),
                inputs,
                range(seed, seed + seeds),
                start=source,
                points=description.points,
                tangents=probes,
                progress=lambda done: advance(f"seed {done}", 1),
                **settings,
            )
        record = {"model": model, "from": source, "seeds": seeds, **forward_record(forward)}
        save(forward, out)
        title = f"{model}: log J({source}->L) = {record['log_apjn']:.4f} +- {record['log_apjn_se']:.4f}"
        emit(record, as_json, forward_text(record, title))
        return
    with bar(seeds, "measure") as advance:
        dataset = measure_ensemble(
            lambda _: description.build(),
            inputs,
            range(seed, seed + seeds),
            points=description.points,
            probes=probes,
            probe=probe,
            mode=mode,
            progress=lambda done: advance(f"seed {done}", 1),
            **settings,
        )
    record = {"model": model, "norm": options["norm"], "alpha": options["alpha"], "seeds": seeds, "probe": probe}
    record["mode"] = dataset.attrs["mode"]
    record |= profile_record(dataset)
    save(dataset, out)
    shown = "" if dataset.attrs["mode"] == "evaluation" else f" ({dataset.attrs['mode']})"
    title = f"{model}: log J(0->L) = {record['log_apjn']:.4f} +- {record['log_apjn_se']:.4f}{shown}"
    emit(record, as_json, profile_text(record, title))
