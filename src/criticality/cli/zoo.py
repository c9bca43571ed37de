"""``criticality zoo``: every pointwise function that was tried in the place of a norm, in one table and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from criticality.arguments import Positive
from criticality.cli.options import NOT_NEGATIVE, CommaSeparated, common
from criticality.cli.output import emit, save_json, table
from criticality.cli.progress import bar
from criticality.errors import CriticalityError


@click.command()
@click.option("--alpha", "alphas", type=CommaSeparated(Positive), default="0.25,0.5,1,2", show_default=True)
@click.option("--sigma-w", type=NOT_NEGATIVE, default=1.0, show_default=True, help="Weights are N(0, sigma_w^2/n).")
@common
def zoo(alphas: tuple[float, ...], sigma_w: float, as_json: bool, seed: int, out: Path | None) -> None:
    """Class, exponent, coefficient and log J at depths 12 to 1000 of x + W phi(alpha x), for every phi of the zoo.

    --out DIR gets zoo.json and zoo.png, zoo.svg. Nothing here is random: --seed changes nothing.
    """
    from criticality.phases import ZOO, zoo_table
    from criticality.phases.zoo import DEPTHS

    rows: list[dict[str, Any]] = []
    record = {"sigma_w": sigma_w, "rows": rows}
    try:
        with bar(len(ZOO) * len(alphas), "zoo") as advance:
            for row in zoo_table(sigma_w**2, alphas):
                rows.append(row)
                advance(f"{row['function']} alpha={row['alpha']:g}", 1)
    finally:  # an interrupted run keeps its rows
        if out is not None and rows:
            save_json(record, out / "zoo.json")
    if out is not None:
        from criticality.reports.figures import save_figure, zoo_figure

        save_figure(zoo_figure(rows), out / "zoo")
    lines = [
        [row["function"], row["alpha"], row["class"], row["exponent"], row["coefficient"], row["agrees"]]
        + [row["log_apjn"][depth] for depth in DEPTHS]
        for row in rows
    ]
    heads = [
        "function",
        "alpha",
        "class",
        "exponent",
        "coefficient",
        "agrees",
        *(f"log J({depth})" for depth in DEPTHS),
    ]
    emit(record, as_json, table(lines, heads))
    failed = [row for row in rows if row["class"] == "failed"]
    if failed:
        first = failed[0]
        raise CriticalityError(
            f"{len(failed)} of {len(rows)} rows must be classified and are not; the first, {first['function']!r} at"
            f" alpha={first['alpha']:g}: {first['why']}"
        )
