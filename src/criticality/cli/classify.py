"""``criticality classify``: exponential, stretched exponential or power law."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from criticality.arguments import Start
from criticality.cli.options import (
    INIT,
    NOT_NEGATIVE,
    POSITIVE,
    REPEATS,
    SEEDS,
    WAY,
    NumberOf,
    Way,
    common,
    left_out,
    model_changes,
)
from criticality.cli.output import emit, save_json, table
from criticality.cli.progress import bar, working
from criticality.errors import ArgumentError

if TYPE_CHECKING:
    from criticality.phases import Classification


@click.command()
@click.argument("model", required=False)
@click.option(
    "--function", "name", help="Without MODEL: ln, a built-in function, one of the zoo, or PATH.py:NAME[@kinks=0,1]."
)
@click.option("--norm", help="Of MODEL: ln, rms, dyt, derf, ... [default: its own].")
@click.option("--alpha", type=POSITIVE, help="Of a pointwise function [default: 1].")
@click.option("--sigma-w", type=NOT_NEGATIVE, default=1.0, show_default=True, help="Weights are N(0, sigma_w^2/n).")
@click.option("--sigma-b", type=NOT_NEGATIVE, default=0.0, show_default=True, help="Biases are N(0, sigma_b^2).")
@click.option("--q0", type=NumberOf(Start), help="Variance of the input [default: 1, or that of MODEL's input].")
@click.option(
    "--way",
    type=WAY,
    default="auto",
    show_default=True,
    help="Of MODEL: exact (theory of its last block), sampled (its blocks are run without their weights) or auto.",
)
@click.option("--seeds", type=SEEDS, default=4, show_default=True, help="Of the sampled way.")
@click.option(
    "--to-depth",
    type=REPEATS,
    default=1000,
    show_default=True,
    help="Of the sampled way, in blocks.",
)
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
    way: Way,
    seeds: int,
    to_depth: int,
    as_json: bool,
    seed: int,
    out: Path | None,
    **changes: Any,
) -> None:
    """How gradients grow with depth, to depth 10^9, by the tail of the norm and by the profile itself.

    With --function: x + W phi(alpha x) + b. With MODEL (see predict): its last block, repeated, all tokens alike; or, where the
    exact theory does not describe it or tells its tokens apart, the blocks of its stream run on its own input to --to-depth,
    with fresh weights at every repeat and standard errors over --seeds.
    """
    if (model is None) == (name is None):
        raise ArgumentError(f"MODEL={model!r} and --function={name!r} must be one of the two, not both and not none")
    if model is None:
        left_out("classify --function")
        record = _classify_function(str(name), alpha, sigma_w, sigma_b, 1.0 if q0 is None else q0)
    else:
        left_out("classify MODEL")
        if way != "auto":
            left_out(f"--way {way}")
        record = _classify_model(model, q0, seed, way, seeds, to_depth, norm=norm, alpha=alpha, **changes)
    save_json(record, out)
    said = {"norm": "own"} if model is not None and norm is None else {}
    rows = [[key, _text(value)] for key, value in {**record, **said}.items() if value is not None]
    emit(record, as_json, table(rows, ["", ""]))


def _classify_function(name: str, alpha: float | None, sigma_w: float, sigma_b: float, q0: float) -> dict[str, Any]:
    from criticality.phases import ResidualStep
    from criticality.phases import classify as classify_network
    from criticality.pointwise import Pointwise
    from criticality.theory.norms import LAYER_NORMS, RMS_NORMS, PointwiseNorm, make_norm

    if name.lower() in (*LAYER_NORMS, *RMS_NORMS):
        if alpha is not None:
            raise ArgumentError(f"--alpha={alpha!r} must be left out for {name!r}, which has none")
        norm: Any = make_norm(name, epsilon=0.0)
    else:
        alpha = 1.0 if alpha is None else alpha
        norm = PointwiseNorm(Pointwise(name, alpha=alpha))
    found = classify_network(ResidualStep(norm, sigma_w**2, sigma_b**2), q0)
    return {"function": name, "alpha": alpha, **_record(found)}


def _classify_model(
    model: str, q0: float | None, seed: int, way: Way, seeds: int, to_depth: int, **changes: Any
) -> dict[str, Any]:
    with working("load torch"):
        from criticality.models import model_spec
        from criticality.phases import Classification
        from criticality.studies.classify import classify_description

        description = model_spec(model, **changes)
    with working(f"classify {model}"), bar(seeds * to_depth, "blocks") as advance:
        found, start = classify_description(
            description,
            way=way,
            seeds=seeds,
            depth=to_depth,
            q0=q0,
            seed=seed,
            progress=lambda blocks: advance("", blocks),
        )
    described = {"model": model, "norm": changes["norm"], "alpha": changes["alpha"], **start}
    if isinstance(found, Classification):
        return {**described, **_record(found), "way": "exact"}
    return {**described, **found.record()}


def _record(found: Classification) -> dict[str, Any]:
    record = found.record()
    if found.analytic is not None:
        record["analytic"] = dict(zip(("class", "exponent", "coefficient"), found.analytic, strict=True))
    return record


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items())
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return value[0] if len(value) == 1 else f"{value[0]} to {value[-1]}"
    if isinstance(value, tuple):
        return " to ".join(_text(entry) for entry in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
