"""``criticality claims``: every claim of the article's plan put to the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from criticality.cli.options import NAMES, common
from criticality.cli.output import emit, plain
from criticality.cli.progress import bar

if TYPE_CHECKING:
    from criticality.studies.claims import Claim


@click.command()
@click.option("--only", type=NAMES, help="Keys of claims, separated by commas [default: all].")
@common
def claims(only: tuple[str, ...] | None, as_json: bool, seed: int, out: Path | None) -> None:
    """One computation for each claim of the plan: what was computed, what was found, and the verdict.

    --out DIR gets claims.md, claims.json, a figure and a file for each claim; an interrupted run keeps what is finished.
    """
    from criticality import __version__
    from criticality.reports.claims import claims_page
    from criticality.schema import write_text
    from criticality.studies.claims import chosen_claims

    chosen = chosen_claims(only)
    records = []
    with bar(len(chosen), "claims") as advance:
        for claim in chosen:
            records.append(claim_record(claim, seed, out))
            advance(claim.key, 1)
    if out is not None:
        made_by = f"criticality {__version__}, seed {seed}"
        write_text(json.dumps(records, indent=1) + "\n", out / "claims.json")
        click.echo(f"wrote {write_text(claims_page(records, 'figures', made_by), out / 'claims.md')}", err=True)
    text = "\n\n".join(f"{r['statement']}\n  {r['verdict'].upper()}. {r['computed']}\n  {r['found']}" for r in records)
    emit({"claims": records}, as_json, text)


def claim_record(claim: Claim, seed: int, out: Path | None) -> dict[str, Any]:
    """From its file, where the same code has made one with the same seed; else computed, and its file and figure written."""
    from criticality import __version__
    from criticality.reports.claims import claim_figure
    from criticality.reports.figures import save_figure
    from criticality.schema import source_digest, write_text
    from criticality.studies.training import trainings_digest

    made_by = {
        "seed": seed,
        "source": source_digest("pointwise", "theory", "measurement", "models", "phases", "studies"),
        "version": __version__,
    }
    if claim.trainings:
        made_by["trainings"] = trainings_digest()
    path = None if out is None else out / "data" / f"{claim.key}.json"
    if path is not None and path.exists():
        try:
            stored: dict[str, Any] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"result file {str(path)!r} must be JSON of criticality claims: {error}") from error
        if stored.get("made_by") == made_by:
            return stored
    outcome = claim.decide(seed).record()
    record = plain({"key": claim.key, "statement": claim.statement, **outcome, "made_by": made_by})
    if out is not None and path is not None:
        figure = claim_figure(claim.key, record["data"])
        if figure is not None:
            save_figure(figure, out / "figures" / claim.key)
        write_text(json.dumps(record, indent=1) + "\n", path)
    loaded: dict[str, Any] = record
    return loaded
