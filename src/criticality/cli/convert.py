"""``criticality convert``: swap the norms of a model, and write its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from criticality.cli.options import ALPHA, FILE, INIT, NAMES, common, model_changes
from criticality.cli.output import emit, table
from criticality.errors import ArgumentError
from criticality.randomness import seed_everything


@click.command()
@click.argument("model")
@click.option(
    "--norm", help="dyt, derf, any built-in function, ln, rms or none [default: dyt, or none other with --edits]."
)
@ALPHA
@click.option("--with-head-norms", is_flag=True, help="Also replace norms of queries and keys.")
@click.option("--edits", type=FILE, help="Then make the edits of this file, as prescribe --out writes it.")
@INIT
@model_changes
@click.option("--keep", type=NAMES, default=(), help="Patterns of norms that stay: names, globs, re:...")
@click.option("--only", type=NAMES, default=(), help="Patterns of norms that are replaced.")
@click.option("--strict", is_flag=True, help="Refuse a model of which something would be left as it is.")
@common
def convert(
    model: str,
    norm: str | None,
    alpha: float | dict[str, float] | None,
    with_head_norms: bool,
    keep: tuple[str, ...],
    only: tuple[str, ...],
    strict: bool,
    edits: Path | None,
    as_json: bool,
    seed: int,
    out: Path | None,
    **changes: object,
) -> None:
    """Replace every LayerNorm and RMSNorm of MODEL, or make the edits of a file, list the changes, and write its weights to --out.

    The weights are random, from --seed, and written as safetensors with the names of the published DyT and Derf code.
    """

    from criticality.models import model_spec, replace_norms, write_weights
    from criticality.prescription import apply_edits
    from criticality.theory import read_edits

    if edits is not None and norm is None and (alpha is not None or with_head_norms or keep or only):
        raise ArgumentError(f"--edits {edits} must come with --norm where a flag of --norm's is given, such as --alpha")
    read = () if edits is None else read_edits(edits)
    if edits is not None and not read:
        raise ArgumentError(f"--edits {edits} must hold an edit, and holds none")
    seed_everything(seed)
    description = model_spec(model, **changes)
    built = description.build()
    norm = norm or ("dyt" if edits is None else None)
    kept = keep or (() if with_head_norms else None)
    scope: dict[str, Any] = {"keep": kept, "only": only or None, "strict": strict}
    by_site = isinstance(alpha, dict)  # which is seen in the data flow
    if norm is not None and by_site:
        scope["inputs"] = description.inputs(seed)
    replaced = [] if norm is None else [replace_norms(built, norm, alpha, **scope)]
    left = [one for conversion in replaced for one in conversion.kept]
    applied = apply_edits(read, built, description.inputs(seed), strict=strict) if read else None
    replaced += [] if applied is None else applied.conversions
    rows = [
        {"name": one.name, "before": type(one.before).__name__, "after": str(one.after)}
        for conversion in replaced
        for one in conversion.replacements
    ]
    changed = [] if applied is None else applied.changes
    changes_made = [{"name": one.name, "what": one.what, "before": one.before, "after": one.after} for one in changed]
    if out is not None:
        click.echo(f"wrote {write_weights(built, out)}", err=True)
    record = {"model": model, "norm": norm, "alpha": alpha, "replaced": rows, "changes": changes_made}
    record["kept"] = [{"name": one.name, "reason": one.reason} for one in left]
    text = table([list(row.values()) for row in rows], ["norm", "before", "after"]) + f"\n\n{len(rows)} norms replaced"
    text += "\n".join([f", {len(left)} kept", *map(str, left)]) if left else ""
    if applied is not None:
        text += f"\n\n{applied}"
    emit(record, as_json, text)
