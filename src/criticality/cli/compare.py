"""``criticality compare``: theory against measurement, as a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from criticality.arguments import Positive
from criticality.cli.options import (
    NAMES,
    PROBE,
    SAMPLES,
    SEEDS,
    THREADS,
    CommaSeparated,
    common,
    left_out,
    measurement,
    model_changes,
)
from criticality.cli.output import emit, table
from criticality.cli.progress import bar


@click.command()
@click.argument("model")
@click.option("--norm", "norms", type=NAMES, default="ln,dyt,derf", show_default=True, help="own: as it is.")
@click.option(
    "--alpha", "alphas", type=CommaSeparated(Positive), default="0.5,1,2", show_default=True, help="Of pointwise norms."
)
@click.option("--init", "inits", type=NAMES, default="own", show_default=True, help="own, fan-in or both.")
@click.option("--seeds", type=SEEDS, default=6, show_default=True, help="Weight seeds, from --seed on.")
@click.option(
    "--workers", type=THREADS, default=1, show_default=True, help="Cases at once, each in a process of its own."
)
@SAMPLES
@measurement
@PROBE
@model_changes
@common
def compare(model: str, as_json: bool, out: Path | None, workers: int, **options: Any) -> None:
    """Measure MODEL on two photographs or stretches of source code, predict it, and report both.

    MODEL is "timm:NAME", "hf:PATH/config.json", "hf:MODEL_TYPE" or "module:PATH.py:FACTORY".

    Writes report.html, figures (PNG, SVG), result.nc and summary.json to --out [default: ./criticality-report].
    An interrupted run keeps its finished cases; the same command takes it up again.
    """
    from criticality.reports import write_report
    from criticality.schema import read_dataset
    from criticality.studies.compare import OWN_NORM, Comparison, steps_per_case, summary
    from criticality.studies.compare import compare as run_comparison
    from criticality.theory.norms import takes_alpha

    if not any(name != OWN_NORM and takes_alpha(name) for name in options["norms"]):
        left_out("compare of norms without alpha")
    comparison = Comparison(model, **options)
    folder = Path("criticality-report") if out is None else out
    cases = len(comparison.cases())
    try:
        with bar(cases * steps_per_case(comparison), "compare") as advance:
            result = run_comparison(comparison, folder, advance, workers=workers)
    except KeyboardInterrupt:
        if (folder / "result.nc").exists():
            finished = read_dataset(folder / "result.nc")
            write_report(finished, folder)
            click.echo(f"{finished.sizes['case']} of {cases} cases are finished, see {folder}/report.html", err=True)
        click.echo("run the same command to resume", err=True)
        raise
    click.echo(f"wrote {write_report(result, folder)}", err=True)
    record = json.loads((folder / "summary.json").read_text())
    emit(record, as_json, comparison_table(summary(result)))


def comparison_table(record: dict[str, Any]) -> str:
    """One line for each case."""
    from criticality.studies.agreement import weak_agreement

    rows = [
        [
            case["norm"],
            case["alpha"],
            case["init"],
            case["log_apjn_predicted"][0],
            case["log_apjn_measured"][0],
            case["log_apjn_se"][0],
            case["largest_deviation"],
            case["largest_allowed"],
            case["gmfe"],
            *case["gmfe_thirds"].values(),
            case["verdict"],
        ]
        for case in record["cases"]
    ]
    headers = [
        "norm",
        "alpha",
        "init",
        "log J theory",
        "log J measured",
        "SE",
        "largest deviation",
        "allowed",
        "GMFE",
        "shallow",
        "middle",
        "deep",
        "verdict",
    ]

    return "\n\n".join(filter(None, [table(rows, headers), weak_agreement(record)]))
