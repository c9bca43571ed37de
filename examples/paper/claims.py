"""Every claim of the article's plan put to the test: ``python examples/paper/claims.py --out docs/claims``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from claim import CLAIMS, Claim
from claim.drawing import claim_figure
from criticality import __version__
from criticality.errors import ArgumentError, CriticalityError, FileError
from criticality.reports import save_figure
from criticality.schema import plain, source_digest, write_text
from kept import trainings_digest

HERE = Path(__file__).parent


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="KEYS", help="Keys of claims, separated by commas [default: all].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, nothing else there.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is random.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write the result.")
def main(only: str | None, as_json: bool, seed: int, out: Path | None) -> None:
    """One computation for each claim of the plan: what was computed, what was found, and the verdict.

    --out DIR gets claims.md, claims.json, a figure and a file for each claim; an interrupted run keeps what is finished.
    """
    try:
        chosen = chosen_claims(only.split(",") if only else None)
        records = [claim_record(claim, seed, out) for claim in tqdm(chosen, desc="claims", leave=False, disable=None)]
    except CriticalityError as error:
        raise click.UsageError(str(error)) from error
    if out is not None:
        write_page(records, seed, out)
        click.echo(f"wrote {out / 'claims.md'}", err=True)
    text = "\n\n".join(f"{r['statement']}\n  {r['verdict'].upper()}. {r['computed']}\n  {r['found']}" for r in records)
    click.echo(json.dumps({"claims": records}) if as_json else text)


def chosen_claims(keys: Sequence[str] | None) -> list[Claim]:
    """Claims by key, all without keys.

    Raises:
        ValueError: an unknown key.
    """
    for key in keys or ():
        if key not in CLAIMS:
            raise ArgumentError(f"claim {key!r} is unknown; allowed are {', '.join(CLAIMS)}")
    return [CLAIMS[key] for key in (keys or CLAIMS)]


def claim_record(claim: Claim, seed: int, out: Path | None) -> dict[str, Any]:
    """From its file, where the same code has made one with the same seed; else computed, and its file and figure written.

    Raises:
        ValueError: a file that is not JSON.
    """
    made_by = {"seed": seed, "source": _source(), "version": __version__}
    if claim.trainings:
        made_by["trainings"] = trainings_digest()
    path = None if out is None else out / "data" / f"{claim.key}.json"
    if path is not None and path.exists():
        try:
            stored: dict[str, Any] = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise FileError(f"result file {str(path)!r} must be JSON of the claims: {error}") from error
        if stored.get("made_by") == made_by:
            return stored
    breakers = {breaker.what: breaker.verdict for breaker in claim.breakers}
    said = {"key": claim.key, "statement": claim.statement, "breakers": breakers}
    record: dict[str, Any] = plain({**said, **claim.decide(seed).record(), "made_by": made_by})
    if out is not None and path is not None:
        figure = claim_figure(claim, record["data"])
        if figure is not None:
            save_figure(figure, out / "figures" / claim.key)[1].unlink()
        write_text(json.dumps(record, indent=1) + "\n", path)
    return record


def write_page(records: Sequence[Mapping[str, Any]], seed: int, out: Path) -> None:
    """``claims.md`` and ``claims.json``."""
    write_text(json.dumps(records, indent=1) + "\n", out / "claims.json")
    write_text(claims_page(records, "figures", f"criticality {__version__}, seed {seed}"), out / "claims.md")


def claims_page(records: Sequence[Mapping[str, Any]], figures: str, made_by: str) -> str:
    """Markdown: one section for each claim, its figure in the folder ``figures``."""
    lines = [
        "# The plan's claims, tested",
        "",
        f"Made by `python examples/paper/claims.py` ({made_by}); do not edit. Each claim of the article's plan is decided by one"
        " computation that could have gone the other way: tests feed it what would break the claim, and see the verdict change.",
        "",
        "| Claim | Verdict |",
        "|---|---|",
    ]
    lines += [
        f"| [{record['statement']}](#{_anchor(record['statement'])}) | **{record['verdict']}** |" for record in records
    ]
    for record in records:
        breakers = "; ".join(f"{what} (*{verdict}*)" for what, verdict in record["breakers"].items())
        lines += [
            "",
            f"## {record['statement']}",
            "",
            f"**Verdict: {record['verdict']}.**",
            "",
            f"*Computed:* {record['computed']}",
            "",
            f"*Found:* {record['found']}",
            "",
            f"*What would change the verdict:* {breakers}.",
        ]
        if claim_figure(CLAIMS[record["key"]], record["data"]) is not None:
            lines += ["", f"![{record['statement']}]({figures}/{record['key']}.png)"]
    return "\n".join(lines) + "\n"


def _anchor(heading: str) -> str:
    """As GitHub and MyST name a heading: lower case, punctuation left out, spaces as hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _source() -> str:
    """Of the library's code that claims compute with, and of the claims' own: what older code computed is computed again."""
    digest = hashlib.sha256(source_digest("pointwise", "theory", "measurement", "models", "phases", "studies").encode())
    for path in sorted((HERE / "claim").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
