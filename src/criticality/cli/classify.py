"""``criticality classify``: exponential, stretched exponential or power law."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from criticality.cli.options import common
from criticality.cli.output import emit, save_json, table
from criticality.phases import ResidualStep, zoo_function
from criticality.phases import classify as classify_step
from criticality.pointwise import Pointwise, PointwiseFunction, pointwise_function
from criticality.python_file import load_name
from criticality.theory.norms import LAYER_NORMS, RMS_NORMS, PointwiseNorm, make_norm


@click.command()
@click.option("--function", "name", required=True, help="ln, a built-in function, one of the zoo, or PATH.py:NAME.")
@click.option("--alpha", type=float, default=1.0, show_default=True)
@click.option("--sigma-w", type=float, default=1.0, show_default=True, help="Weights are N(0, sigma_w^2/n).")
@click.option("--sigma-b", type=float, default=0.0, show_default=True, help="Biases are N(0, sigma_b^2).")
@click.option("--q0", type=float, default=1.0, show_default=True, help="Variance of the input.")
@common
def classify(
    name: str, alpha: float, sigma_w: float, sigma_b: float, q0: float, as_json: bool, seed: int, out: Path | None
) -> None:
    """How gradients grow with depth in x + W phi(alpha x) + b, to depth 10^9, by its tail and by its own profile.

    Nothing here is random: --seed changes nothing.
    """
    for option, value in (("sigma-w", sigma_w), ("sigma-b", sigma_b)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{option}={value!r} must be a finite number, 0 or above")
    if name.lower() in (*LAYER_NORMS, *RMS_NORMS):
        norm: Any = make_norm(name, epsilon=0.0)
    else:
        norm = PointwiseNorm(Pointwise(_function(name), alpha=alpha))
    found = classify_step(ResidualStep(norm, sigma_w**2, sigma_b**2), q0)
    record: dict[str, Any] = {"function": name, "alpha": alpha, **found.record()}
    if found.analytic is not None:
        record["analytic"] = dict(zip(("class", "exponent", "coefficient"), found.analytic, strict=True))
    save_json(record, out)
    rows = [[key, _text(record[key])] for key in record]
    emit(record, as_json, table(rows, ["", ""]))


def _function(name: str) -> PointwiseFunction:
    if ".py:" not in name:
        return zoo_function(name)
    found = load_name(name)
    return found if isinstance(found, PointwiseFunction) else pointwise_function(found, name=name.rpartition(":")[2])


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items())
    if isinstance(value, tuple):
        return " to ".join(_text(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
