"""``criticality predict``: mean-field theory of an architecture, no weight allocated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from criticality.arguments import Correlation, Variance
from criticality.cli.options import (
    NOT_NEGATIVE,
    SAMPLES,
    SEEDS,
    WAY,
    NumberOf,
    Way,
    common,
    left_out,
    model_changes,
    model_norm,
)
from criticality.cli.output import emit, profile_record, profile_text, save
from criticality.cli.progress import bar, working
from criticality.theory import SymmetricKernel, make_norm, propagate, resnet


@click.command()
@click.argument("model")
@model_norm
@click.option(
    "--sigma-w", type=NOT_NEGATIVE, default=1.0, show_default=True, help="resnet: weights are N(0, sigma_w^2/n)."
)
@click.option(
    "--sigma-b", type=NOT_NEGATIVE, default=0.0, show_default=True, help="resnet: biases are N(0, sigma_b^2)."
)
@click.option("--q0", type=NumberOf(Variance), default=1.0, show_default=True, help="resnet: variance of the input.")
@click.option(
    "--rho0", type=NumberOf(Correlation), default=0.0, show_default=True, help="resnet: correlation of two inputs."
)
@click.option(
    "--way",
    type=WAY,
    default="auto",
    show_default=True,
    help="exact (theory of the network), sampled (the model is run without its weights) or auto: exact where it is described.",
)
@click.option("--seeds", type=SEEDS, default=4, show_default=True, help="Of the sampled way.")
@SAMPLES
@model_changes
@common
def predict(
    model: str, as_json: bool, seed: int, out: Path | None, samples: int, way: Way, seeds: int, **options: Any
) -> None:
    """Kernels and log APJN of MODEL at initialization, no large weight allocated.

    MODEL is "resnet", the one-branch residual network x + W phi(alpha x) + b, or a real model, whose architecture and
    initial variances are read without allocating a weight: "timm:NAME", "hf:PATH/config.json", "hf:MODEL_TYPE" or
    "module:PATH.py:FACTORY". Its input are the kernels of two photographs or of two stretches of source code.
    """
    if model == "resnet":
        left_out("predict resnet")
        dataset = _resnet(**options)
    else:
        from criticality.models import describe_model  # slow: torch and timm
        from criticality.studies.predict import predict_description

        left_out("predict MODEL")
        if way != "auto":
            left_out(f"--way {way}")
        changes = {
            key: options[key] for key in ("norm", "alpha", "depth", "width", "image_size", "tokens", "text", "init")
        }
        description = describe_model(model, **changes)
        with working(f"predict {model}"), bar(seeds, "seeds") as advance:
            dataset = predict_description(
                description,
                way=way,
                seeds=seeds,
                samples=samples,
                seed=seed,
                progress=lambda done: advance(f"seed {done}", 1),
            )
    record = {"model": model, "norm": options["norm"], "alpha": options["alpha"], **profile_record(dataset)}
    record["way"] = dataset.attrs.get("way", "exact")
    save(dataset, out)
    error = f" +- {record['log_apjn_se']:.4f}" if "log_apjn_se" in record else ""
    emit(
        record,
        as_json,
        profile_text(record, f"{model}: log J(0->L) = {record['log_apjn']:.4f}{error} ({record['way']})"),
    )


def _resnet(
    norm: str | None,
    alpha: float | None,
    depth: int | None,
    sigma_w: float,
    sigma_b: float,
    q0: float,
    rho0: float,
    **others: Any,
) -> Any:
    network = resnet(make_norm(norm or "dyt", alpha), 64 if depth is None else depth, sigma_w**2, sigma_b**2)
    return propagate(network, SymmetricKernel.of(q0, rho0 * q0))
