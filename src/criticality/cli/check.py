"""``criticality check``: what a practitioner needs to know of a model, in twenty lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from criticality.cli.options import FINITE, SAMPLES, SEEDS, common, model_changes, model_norm
from criticality.cli.output import emit, save_json, with_error
from criticality.cli.progress import working

if TYPE_CHECKING:
    from criticality.studies.check import CheckUp


@click.command()
@click.argument("model")
@model_norm
@click.option("--budget", type=FINITE, help="Largest log J(0->L) [default: the same network with LayerNorm, plus 0.5].")
@click.option(
    "--seeds",
    type=SEEDS,
    default=2,
    show_default=True,
    help="To measure models that are not read.",
)
@SAMPLES
@model_changes
@common
def check(
    model: str,
    budget: float | None,
    seeds: int,
    samples: int,
    as_json: bool,
    seed: int,
    out: Path | None,
    **changes: Any,
) -> None:
    """Phase, log J, worst blocks, expected trouble and prescription of MODEL (see predict).

    Exits with 1 when log J(0->L) exceeds the budget, so that it can run in a CI. A model that the theory does not read is
    measured; where LayerNorm cannot take the place of its norms, the budget is that of x + W LN(x) of as many blocks.
    """
    with working("check"):
        from criticality.studies.check import check_up  # which takes seconds, too

        found = check_up(model, changes, budget=budget, seeds=seeds, samples=samples, seed=seed)
    save_json(found.record(), out)
    emit(found.record(), as_json, _text(found))
    if not found.within_budget:
        click.get_current_context().exit(1)


def _text(found: CheckUp) -> str:
    lines = [
        f"model         {found.model}, {found.depth} blocks",
        f"norms         {found.norms}",
        f"phase         {found.phase}",
        f"log J(0->L)   {found.log_apjn:.2f}" + f"{with_error(found.log_apjn_se, '.2f')}, {found.source}",
        f"LayerNorm     {found.log_apjn_layer_norm:.2f} in its place"
        + (", all tokens alike" if found.source == "theory" else "")
        if found.log_apjn_layer_norm is not None
        else "",
        f"budget        {found.budget:.2f}: {'within' if found.within_budget else 'EXCEEDED'} ({found.budget_of})",
        "worst blocks  " + ", ".join(f"{block}: x{factor:.2f}" for block, factor in found.worst_blocks),
        f"expect        {found.expect}",
        f"prescription  {found.prescription}",
    ]
    return "\n".join(line for line in lines if line)
