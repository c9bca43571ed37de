"""The article's figures: drawn from stored results, computed anew, or a random part of them checked.

    python examples/paper/paper.py                       draw every figure from stored results
    python examples/paper/paper.py growth --recompute    compute one anew from --seed, store it, draw it
    python examples/paper/paper.py --check 6             compute six random results anew and compare

Figures: those of ``figures.py``, those of the claims, ``prescriptions`` and ``stability``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

import make_stability
from claim import CLAIMS
from claim.drawing import claim_figure
from criticality.reports import save_figure
from criticality.schema import write_text
from figures import FIGURES
from kept import DATA
from stored import KINDS, ROOT, curves_of, prescriptions

PAGES = ("prescriptions", "stability")
DOCS = ROOT / "docs"


def draw(name: str, out: Path | None) -> None:
    """One figure from what is stored, into ``out`` or where the site has it."""
    if name == "prescriptions":
        prescriptions().write(json.loads((DOCS / "data" / "prescriptions.json").read_text()))
    elif name == "stability":
        make_stability.write()
    elif name in FIGURES:
        figure = FIGURES[name].draw([(c["settings"], c["values"]) for c in curves_of(name)])
        save_figure(figure, (out or DOCS / "figures" / "article") / name)[1].unlink()
    else:
        record = json.loads((DOCS / "claims" / "data" / f"{name}.json").read_text())
        drawn = claim_figure(CLAIMS[name], record["data"])
        if drawn is not None:
            save_figure(drawn, (out or DOCS / "claims" / "figures") / name)[1].unlink()
    click.echo(f"drew {name}", err=True)


def recompute(name: str, seed: int) -> None:
    """Compute one figure's results, and store them."""
    if name in FIGURES:
        figure = FIGURES[name]
        curves = [{"settings": dict(s), "values": figure.curve(s, seed)} for s in tqdm(figure.settings, desc=name)]
        write_text(json.dumps({"seed": seed, "curves": curves}) + "\n", DATA / f"{name}.json")
        return
    command = {
        "prescriptions": f"{sys.executable} {DOCS / 'make_prescriptions.py'}",
        "stability": "criticality sweep run docs/studies/STUDY.yaml --out FOLDER/STUDY.zarr;"
        " python examples/paper/make_stability.py FOLDER",
    }.get(name, f"python examples/paper/claims.py --only {name} --seed {seed} --out docs/claims")
    raise click.UsageError(f"figure {name!r} is long to compute, and has a command of its own: {command}")


def check_random(kinds: Sequence[str], count: int, seed: int) -> bool:
    """Whether so many random results come out as stored."""
    rng, results, good = np.random.default_rng(seed), {kind: KINDS[kind]() for kind in kinds}, True
    for _ in range(count):
        kind = kinds[int(rng.integers(len(kinds)))]
        stored = results[kind]
        item = stored.items[int(rng.integers(len(stored.items)))]
        worst = stored.difference(item)
        good &= worst <= stored.tolerance
        label = json.dumps(item["settings"] if isinstance(item, dict) and "settings" in item else item, default=str)
        verdict = "as stored" if worst <= stored.tolerance else "NOT as stored"
        click.echo(f"{kind} {label[:100]}: {verdict}, largest relative difference {worst:.1e}", err=True)
    return good


@click.command()
@click.argument("names", nargs=-1)
@click.option("--recompute", "anew", is_flag=True, help="Compute what is drawn instead of reading it.")
@click.option("--check", type=click.IntRange(min=1), help="Compute so many random results and compare; draw nothing.")
@click.option("--seed", default=0, show_default=True, help="Of what is random; with --check, of the choice.")
@click.option("--out", type=click.Path(path_type=Path), help="Where figures go [default: where the site has them].")
def main(names: tuple[str, ...], anew: bool, check: int | None, seed: int, out: Path | None) -> None:
    """Draw the article's figures NAMES [default: all]; with --check, NAMES are kinds of results."""
    known = list(KINDS) if check is not None else [*FIGURES, *CLAIMS, *PAGES]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"name {unknown[0]!r} must be one of {', '.join(known)}")
    if check is not None:
        sys.exit(0 if check_random(names or known, check, seed) else 1)
    for name in names or known:
        if anew:
            recompute(name, seed)
        draw(name, out)


if __name__ == "__main__":
    main()
