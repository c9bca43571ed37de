"""The article's figures: drawn from stored results, computed anew, or a random part of them checked.

python examples/paper/paper.py                       draw every figure from stored results
python examples/paper/paper.py growth --recompute    compute one anew, store it, draw it
python examples/paper/paper.py --check 6             compute six random curves anew and compare
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from figures import FIGURES
from tqdm import tqdm

from criticality.reports.claims import claim_figure
from criticality.reports.figures import save_figure
from criticality.schema import write_text
from criticality.studies.claims import CLAIMS

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
TOLERANCE = 1e-6
"""Relative difference of a curve computed anew from the stored one that is still called the same."""


def compute(name: str, seed: int) -> list[dict[str, Any]]:
    """Every curve of a figure, in the order of its settings."""
    figure = FIGURES[name]
    return [{"settings": dict(s), "values": figure.curve(s, seed)} for s in tqdm(figure.settings, desc=name)]


def stored(name: str) -> list[dict[str, Any]]:
    """Of one figure, or one claim."""
    path = DATA / f"{name}.json"
    if not path.is_file():
        raise click.ClickException(f"{path} is missing: run with --recompute")
    found: list[dict[str, Any]] = json.loads(path.read_text())["curves"]
    return found


def draw(name: str, out: Path) -> None:
    """One figure, or the figure of one claim, from what is stored."""
    if name in FIGURES:
        figure = FIGURES[name].draw([(c["settings"], c["values"]) for c in stored(name)])
    else:
        record = json.loads((ROOT / "docs" / "claims" / "data" / f"{name}.json").read_text())
        drawn = claim_figure(name, record["data"])
        if drawn is None:
            return
        figure = drawn
    png, svg = save_figure(figure, out / name)
    svg.unlink()
    click.echo(f"wrote {png}", err=True)


def differences(curve: dict[str, Any], name: str, seed: int) -> float:
    """Largest relative difference of one stored curve and the same computed anew."""
    again = FIGURES[name].curve(curve["settings"], seed)
    worst = 0.0
    for key, value in curve["values"].items():
        was, now = np.asarray(value, dtype=float), np.asarray(again[key], dtype=float)
        worst = max(worst, float(np.max(np.abs(now - was) / np.maximum(np.abs(was), 1e-9))))
    return worst


@click.command()
@click.argument("names", nargs=-1)
@click.option("--recompute", is_flag=True, help="Compute what is drawn instead of reading it.")
@click.option("--check", type=click.IntRange(min=1), help="Compute so many random curves and compare; draw nothing.")
@click.option("--seed", default=0, show_default=True, help="Of what is random; with --check, also of the choice.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "figures" / "article", show_default=True
)
def main(names: tuple[str, ...], recompute: bool, check: int | None, seed: int, out: Path) -> None:
    """Draw the article's figures NAMES [default: all]."""
    known = [*FIGURES, *CLAIMS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"figure {unknown[0]!r} must be one of {', '.join(known)}")
    if check is not None:
        check_random(names or tuple(FIGURES), check, seed)
        return
    for name in names or known:
        if recompute and name in FIGURES:
            text = json.dumps({"seed": seed, "curves": compute(name, seed)})
            write_text(text + "\n", DATA / f"{name}.json")
        elif recompute:
            raise click.UsageError(f"figure {name!r} is a claim's: criticality claims --only {name} --out docs/claims")
        draw(name, out)


def check_random(names: tuple[str, ...], count: int, seed: int) -> None:
    """Exit code 1 where a curve is not what is stored."""
    rng = np.random.default_rng(seed)
    pool = [(name, curve) for name in names for curve in stored(name)]
    failed = False
    for index in rng.choice(len(pool), size=min(count, len(pool)), replace=False):
        name, curve = pool[int(index)]
        worst = differences(curve, name, json.loads((DATA / f"{name}.json").read_text())["seed"])
        failed |= not worst <= TOLERANCE
        click.echo(f"{name} {json.dumps(curve['settings'])}: largest relative difference {worst:.1e}", err=True)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
