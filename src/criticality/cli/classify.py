"""``criticality classify``: exponential, stretched exponential or power law."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from criticality.cli.options import INIT, common, model_changes
from criticality.cli.output import emit, save_json, table
from criticality.phases import Classification, ResidualStep, equivalent_tokens
from criticality.phases import classify as classify_network
from criticality.pointwise import Pointwise
from criticality.theory.norms import LAYER_NORMS, RMS_NORMS, PointwiseNorm, make_norm


@click.command()
@click.argument("model", required=False)
@click.option(
    "--function", "name", help="Without MODEL: ln, a built-in function, one of the zoo, or PATH.py:NAME[@kinks=0,1]."
)
@click.option("--norm", help="Of MODEL: ln, rms, dyt, derf, ... [default: its own].")
@click.option("--alpha", type=float, help="Of a pointwise function [default: 1].")
@click.option("--sigma-w", type=float, default=1.0, show_default=True, help="Weights are N(0, sigma_w^2/n).")
@click.option("--sigma-b", type=float, default=0.0, show_default=True, help="Biases are N(0, sigma_b^2).")
@click.option("--q0", type=float, help="Variance of the input [default: 1, or that of MODEL's input].")
@INIT
@model_changes
@common
def classify(
    model: str | None,
    name: str | None,
    norm: str | None,
    alpha: float | None,
    sigma_w: float,
    sigma_b: float,
    q0: float | None,
    as_json: bool,
    seed: int,
    out: Path | None,
    **changes: Any,
) -> None:
    """How gradients grow with depth, to depth 10^9, by the tail of the norm and by the profile itself.

    With --function: x + W phi(alpha x) + b. With MODEL (see predict): its last block, repeated, all tokens alike. Only
    the kernels of a MODEL's input depend on --seed; nothing else is random.
    """
    if (model is None) == (name is None):
        raise ValueError(f"MODEL={model!r} and --function={name!r}: give one of the two")
    if model is None:
        record = _classify_function(
            str(name), 1.0 if alpha is None else alpha, sigma_w, sigma_b, 1.0 if q0 is None else q0
        )
    else:
        record = _classify_model(model, q0, seed, norm=norm, alpha=alpha, **changes)
    save_json(record, out)
    rows = [[key, _text(record[key])] for key in record]
    emit(record, as_json, table(rows, ["", ""]))


def _classify_function(name: str, alpha: float, sigma_w: float, sigma_b: float, q0: float) -> dict[str, Any]:
    for option, value in (("sigma-w", sigma_w), ("sigma-b", sigma_b)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{option}={value!r} must be a finite number, 0 or above")
    if name.lower() in (*LAYER_NORMS, *RMS_NORMS):
        norm: Any = make_norm(name, epsilon=0.0)
    else:
        norm = PointwiseNorm(Pointwise(name, alpha=alpha))
    found = classify_network(ResidualStep(norm, sigma_w**2, sigma_b**2), q0)
    return {"function": name, "alpha": alpha, **_record(found)}


def _classify_model(model: str, q0: float | None, seed: int, **changes: Any) -> dict[str, Any]:
    from criticality.models import describe_model  # slow: torch

    network, inputs = describe_model(model, **changes).describe(seed)
    mean, rho, tokens = equivalent_tokens(inputs)
    q = mean if q0 is None else q0
    found = classify_network(network, q, rho0=rho, tokens=tokens)
    described = {
        "model": model,
        "norm": changes["norm"],
        "alpha": changes["alpha"],
        "q0": q,
        "rho0": rho,
        "tokens": tokens,
    }
    return {**described, **_record(found)}


def _record(found: Classification) -> dict[str, Any]:
    record = found.record()
    if found.analytic is not None:
        record["analytic"] = dict(zip(("class", "exponent", "coefficient"), found.analytic, strict=True))
    return record


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items())
    if isinstance(value, tuple):
        return " to ".join(_text(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
