"""``criticality convert``: swap the norms of a model, and write its weights."""

from __future__ import annotations

from pathlib import Path

import click

from criticality.cli.options import INIT, NAMES, POSITIVE, common, model_changes
from criticality.cli.output import emit, table


@click.command()
@click.argument("model")
@click.option("--norm", default="dyt", show_default=True, help="dyt, derf, any built-in function, ln, rms or none.")
@click.option("--alpha", type=POSITIVE, help="Of a pointwise norm [default: 1].")
@click.option("--with-head-norms", is_flag=True, help="Also replace norms of queries and keys.")
@INIT
@model_changes
@click.option("--keep", type=NAMES, default=(), help="Patterns of norms that stay: names, globs, re:...")
@click.option("--only", type=NAMES, default=(), help="Patterns of norms that are replaced.")
@click.option("--strict", is_flag=True, help="Refuse a model with norms that cannot be replaced.")
@common
def convert(
    model: str,
    norm: str,
    alpha: float | None,
    with_head_norms: bool,
    keep: tuple[str, ...],
    only: tuple[str, ...],
    strict: bool,
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
    kept = keep or (() if with_head_norms else None)
    conversion = replace_norms(built, norm, alpha, keep=kept, only=only or None, strict=strict)
    rows = [{"name": r.name, "before": type(r.before).__name__, "after": str(r.after)} for r in conversion.replacements]
    if out is not None:
        click.echo(f"wrote {write_weights(built, out)}", err=True)
    record = {"model": model, "norm": norm, "alpha": alpha, "replaced": rows}
    record["kept"] = [{"name": one.name, "reason": one.reason} for one in conversion.kept]
    text = table([list(row.values()) for row in rows], ["norm", "before", "after"])
    left = "".join(f"\n{one}" for one in conversion.kept)
    emit(record, as_json, f"{text}\n\n{len(rows)} norms replaced, {len(conversion.kept)} kept{left}")
