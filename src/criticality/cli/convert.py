"""``criticality convert``: swap the norms of a model, and write its weights."""

from __future__ import annotations

from pathlib import Path

import click

from criticality.cli.options import INIT, POSITIVE, common, model_changes
from criticality.cli.output import emit, table


@click.command()
@click.argument("model")
@click.option("--norm", default="dyt", show_default=True, help="dyt, derf, any built-in function, ln, rms or none.")
@click.option("--alpha", type=POSITIVE, help="Of a pointwise norm [default: 1].")
@click.option("--with-head-norms", is_flag=True, help="Also replace norms of queries and keys.")
@INIT
@model_changes
@common
def convert(
    model: str,
    norm: str,
    alpha: float | None,
    with_head_norms: bool,
    as_json: bool,
    seed: int,
    out: Path | None,
    **changes: object,
) -> None:
    """Replace every LayerNorm and RMSNorm of MODEL, list what was replaced, and write its weights to --out.

    The weights are random, from --seed, and written as safetensors with the names of the published DyT and Derf code.
    """
    import torch

    from criticality.models import describe_model, replace_norms, write_weights

    torch.manual_seed(seed)
    built = describe_model(model, **changes).build()
    conversion = replace_norms(built, norm, alpha, keep=() if with_head_norms else None)
    rows = [{"name": r.name, "before": type(r.before).__name__, "after": str(r.after)} for r in conversion.replacements]
    if out is not None:
        click.echo(f"wrote {write_weights(built, out)}", err=True)
    record = {"model": model, "norm": norm, "alpha": alpha, "replaced": rows}
    text = table([list(row.values()) for row in rows], ["norm", "before", "after"])
    emit(record, as_json, f"{text}\n\n{len(rows)} norms replaced")
