"""Write studies/stability.md and its figures from the kept studies: ``python examples/paper/make_stability.py [FOLDER]``.

With FOLDER, which holds NAME.zarr of ``criticality sweep run docs/studies/NAME.yaml --out FOLDER/NAME.zarr``, what is kept is
taken from there first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from criticality import __version__
from criticality.reports import COLOURS, DASHES, MARKERS, STYLE, save_figure
from criticality.schema import write_dataset
from criticality.studies.association import Estimate
from criticality.sweeps import Store
from kept import DATA, FIRST_STEPS, kept_study
from stability import (
    MARGIN,
    Choice,
    choices,
    correlation,
    difference,
    excess_of_cells,
    runs_of,
)

FOLDER = Path(__file__).parents[2] / "docs" / "studies"
TITLES = {
    "stability": "ViT, AdamW",
    "stability_warm_up": "ViT, AdamW, warm-up",
    "stability_muon": "ViT, Muon",
    "stability_code": "GPT, AdamW",
}
SETTING = (
    "**Setting.** ViT on scikit-learn's digits (16 tokens, width 32, batch 16, 150 steps) and GPT on the bytes of "
    "Python's standard library (64 tokens, width 32, batch 8, 300 steps); fan-in weights, three seeds, learning "
    "rates over two decades; with warm-up: 50 of the 150 steps. "
)
EARLY = (
    "**What this is.** A study of the first 150 steps of training (1.7 epochs of the digits; GPT: 300 steps), made before that"
    " of [converged trainings](training.md). What differs between networks so early is mostly *speed*: trained for 1,500 steps,"
    " the choices of depth 12 that score 0.34 (α = ¼) and 0.56 (α = ½) below end at 0.94 and 0.97 (issue 14). 'Score' and 'stable"
    " rate' here are those of 150 steps, not of a trained network, and the claims are not decided by them."
)
WORDS = (
    f"**Words.** A run *trains* when its last ten losses are {MARGIN} nats below those of the best constant "
    "prediction on the same batches: networks that are pushed too far mostly do not diverge, they predict a "
    "constant. *Stable rate*: largest learning rate at which a seed trains, geometric mean over seeds; a seed that "
    "trains at none counts as one step of the grid below the smallest rate. *Score*: held-out accuracy (GPT: minus "
    "bits per byte) at the best rate, median over seeds. *Sensitivity*: mean loss over all rates above the best "
    "rate's, in nats. Intervals are 95 per cent, from resampled seeds and, for correlations, resampled choices. "
    "Correlations are over pointwise norms only."
)
NEARNESS = (
    "Seen in an earlier, smaller study and tested here: the score is best where log J is near LayerNorm's. Rank "
    "correlation of the score and of how near log J is to LayerNorm's at the same depth:"
)
Quantity = Callable[[Choice], float]


def stable(choice: Choice) -> float:
    return float(np.log10(choice.largest_stable))


def score(choice: Choice) -> float:
    return choice.best_score


def constant_alpha(choice: Choice) -> bool:
    return choice.pointwise and "schedule" not in choice.label


def alpha(choice: Choice) -> float:
    return float(choice.label.split()[1])


def shown(found: Estimate, digits: int = 2) -> str:
    return f"{found.value:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"


def take(folder: Path) -> None:
    DATA.mkdir(exist_ok=True)
    for name in FIRST_STEPS:
        store = folder / f"{name}.zarr"
        if store.exists():
            write_dataset(Store(store).dataset(), DATA / f"{name}.nc")


def depths_of(study: xr.Dataset) -> list[int]:
    return sorted({int(depth) for depth in study.depth.values})


# --- tables -----------------------------------------------------------------------------------------------------------


def table_of_choices(study: xr.Dataset) -> list[str]:
    found, depths = choices(study), depths_of(study)
    lines = [
        "| Choice | " + " | ".join(f"depth {depth}" for depth in depths) + " |",
        "|---|" + "---|" * len(depths),
    ]
    for label in dict.fromkeys(choice.label for choice in found):
        mine = {choice.depth: choice for choice in found if choice.label == label}
        cells = [
            f"{c.log_apjn:.1f}; {c.largest_stable:.1g}; {c.best_score:{'.2f' if c.best_score >= 0 else '.3f'}}; {c.sensitivity:.2f}"
            if (c := mine.get(depth)) is not None
            else ""
            for depth in depths
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def table_of_correlations(
    studies: dict[str, xr.Dataset], quantity: Quantity, order: Callable | None = None
) -> list[str]:
    lines = ["| Study | depth | Spearman's ρ (95 per cent) | choices |", "|---|---|---|---|"]
    for name, study in studies.items():
        depths = depths_of(study)
        groups: list[list[int]] = [[depth] for depth in depths] + ([depths] if len(depths) > 1 else [])
        for group in groups:
            kwargs = {} if order is None else {"order": order(study)}
            found = correlation(study, quantity, keep=partial(_is_pointwise_at, group), **kwargs)
            label = "all" if len(group) > 1 else str(group[0])
            lines.append(f"| {TITLES[name]} | {label} | {shown(found)} | {found.choices} |")
    return lines


def _is_at(depth: int, kind: Callable[[Choice], bool], choice: Choice) -> bool:
    return choice.depth == depth and kind(choice)


def _is_pointwise_at(depths: Sequence[int], choice: Choice) -> bool:
    return choice.pointwise and choice.depth in depths


def nearness(study: xr.Dataset) -> Quantity:
    """How near ``log J`` is to LayerNorm's at the same depth."""
    norm = {c.depth: c.log_apjn for c in choices(study) if c.label == "ln"}
    return lambda choice: -abs(choice.log_apjn - norm[choice.depth])


def table_of_differences(
    studies: dict[str, xr.Dataset], rows: Sequence[tuple[str, Callable[[Choice], bool], Callable[[Choice], bool]]]
) -> list[str]:
    lines = [
        "| Comparison | Study | depth | decades of stable rate | best score |",
        "|---|---|---|---|---|",
    ]
    for label, chosen, others in rows:
        for name, study in studies.items():
            for depth in depths_of(study):
                kinds = [
                    difference(
                        study,
                        quantity,
                        partial(_is_at, depth, chosen),
                        partial(_is_at, depth, others),
                    )
                    for quantity in (stable, score)
                ]
                lines.append(f"| {label} | {TITLES[name]} | {depth} | {shown(kinds[0])} | {shown(kinds[1])} |")
    return lines


def falls_with_alpha(studies: dict[str, xr.Dataset]) -> list[str]:
    lines = ["| Study | depth | stable rate against α | final score against α |", "|---|---|---|---|"]
    for name, study in studies.items():
        for depth in depths_of(study):
            found = [
                correlation(study, quantity, keep=partial(_is_at, depth, constant_alpha), order=alpha)
                for quantity in (stable, score)
            ]
            lines.append(f"| {TITLES[name]} | {depth} | {shown(found[0])} | {shown(found[1])} |")
    return lines


def table_of_failures(studies: dict[str, xr.Dataset]) -> list[str]:
    """What became of ``log J`` in runs that train and in those that do not."""
    lines = ["| Study | norms | runs | log J, first and last (medians) | diverged |", "|---|---|---|---|---|"]
    for name, study in studies.items():
        trains = excess_of_cells(study) < -MARGIN
        own = study.norm.values == "ln"
        for label, norms in (("LayerNorm", own), ("pointwise", ~own)):
            for word, outcome in (("train", trains), ("do not", ~trains)):
                mine = norms & outcome & (study.diverged.values == 0)
                if not mine.any():
                    continue
                first, last = (float(np.median(study[key].values[mine])) for key in ("log_apjn", "log_apjn_last"))
                gone = int(np.sum(norms & (study.diverged.values != 0)))
                lines.append(
                    f"| {TITLES[name]} | {label}, {word} | {int(mine.sum())} | {first:.1f}, {last:.1f} | {gone} |"
                )
    return lines


# --- figures ----------------------------------------------------------------------------------------------------------


def style(choice: Choice) -> int:
    if "schedule" in choice.label:
        return 2
    return {"ln": 6, "dyt": 0, "derf": 1}[choice.label.split()[0]]


def legend(axes: Axes) -> None:
    for i, label in ((6, "LayerNorm"), (0, "DyT"), (1, "Derf"), (2, "schedule")):
        axes.plot([], [], marker=MARKERS[i], color=COLOURS[i], mfc="white", ls="", label=label)
    axes.legend(fontsize=8)


def draw_overview(study: xr.Dataset) -> Figure:
    """Stable rate and score against ``log J``, a column for each depth."""
    found, depths = choices(study), depths_of(study)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 5.2), layout="constrained")
        rows = figure.subplots(2, len(depths), sharey="row", sharex="col", squeeze=False)
        for column, depth in enumerate(depths):
            for c in (c for c in found if c.depth == depth):
                i = style(c)
                marks = {"marker": MARKERS[i], "color": COLOURS[i], "mfc": "white", "ls": "", "ms": 6}
                rows[0][column].plot([c.log_apjn], [c.largest_stable], **marks)
                rows[1][column].plot([c.log_apjn], [c.best_score], **marks)
                if constant_alpha(c) and c.label.startswith("dyt"):
                    rows[0][column].annotate(
                        f"{alpha(c):g}",
                        (c.log_apjn, c.largest_stable),
                        fontsize=6.5,
                        xytext=(4, 3),
                        textcoords="offset points",
                    )
            rows[0][column].set(yscale="log", title=f"depth {depth}")
            rows[1][column].set(xlabel=r"$\log\,J(0 \to L)$ at initialization")
        rows[0][0].set_ylabel("largest stable learning rate")
        rows[1][0].set_ylabel("best score")
        legend(rows[0][-1])
    return figure


def draw_rates(study: xr.Dataset) -> Figure:
    """Final loss below the constant prediction's, against the learning rate."""
    labels = ("ln", "dyt 0.25", "dyt 0.5", "dyt 1", "dyt 4", "dyt schedule")
    depths = depths_of(study)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 3.2), layout="constrained")
        panels = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
        for panel, depth in zip(panels, depths, strict=True):
            for i, label in enumerate(labels):
                runs = [r for r in runs_of(study) if r.label == label and r.depth == depth]
                for run in runs:
                    gain = np.maximum(-run.excess, -0.1)
                    panel.errorbar(
                        run.rates,
                        np.median(gain, axis=1),
                        yerr=[
                            np.median(gain, axis=1) - gain.min(axis=1),
                            gain.max(axis=1) - np.median(gain, axis=1),
                        ],
                        color=COLOURS[i] if label != "ln" else COLOURS[6],
                        marker=MARKERS[i],
                        mfc="white",
                        ms=4.5,
                        lw=1.3,
                        capsize=2,
                        ls=(0, DASHES[i] or (1, 0)),
                        label={"ln": "LayerNorm"}.get(label, label.replace("dyt", "DyT")),
                    )
            panel.axhline(MARGIN, color="#777777", lw=0.8, ls=":")
            panel.set(xscale="log", xlabel="learning rate", title=f"depth {depth}")
        panels[0].set_ylabel("nats learned in the budget")
        panels[-1].legend(fontsize=7.5)
    return figure


def draw_cost(study: xr.Dataset, cost: list[dict], depth: int = 24) -> Figure:
    """Time of a step and kept bytes of each norm, against its largest stable rate."""
    found = [c for c in choices(study) if c.depth == depth]
    widest = max(row["width"] for row in cost)
    of = {row["norm"]: row for row in cost if row["width"] == widest}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.6), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for c in found:
            row, i = of[c.label.split()[0]], style(c)
            marks = {"marker": MARKERS[i], "color": COLOURS[i], "mfc": "white", "ls": "", "ms": 6.5}
            error = [[row["time"] - row["time_low"]], [row["time_high"] - row["time"]]]
            panels[0].errorbar([row["time"]], [c.largest_stable], xerr=error, elinewidth=0.4, **marks)
            panels[1].plot([row["memory"]], [c.largest_stable], **marks)
            if constant_alpha(c) and alpha(c) in (1, 4):
                for panel, x in zip(panels, (row["time"], row["memory"]), strict=True):
                    panel.annotate(
                        f"{alpha(c):g}", (x, c.largest_stable), fontsize=6.5, xytext=(5, 2), textcoords="offset points"
                    )
        panels[0].set(yscale="log", xlabel="time of a step / LayerNorm's", ylabel=f"largest stable rate, depth {depth}")
        panels[1].set(xlabel="bytes kept for the backward pass / LayerNorm's", xlim=(0.95, 1.05))
        legend(panels[1])
    return figure


# --- the page ---------------------------------------------------------------------------------------------------------


def budget(studies: dict[str, xr.Dataset]) -> str:
    parts = []
    for name, study in studies.items():
        done = study.status.values == "done"
        seconds = float(np.nansum(study.seconds.values[done])) if "seconds" in study else float("nan")
        failed = int(np.sum(study.status.values != "done"))
        parts.append(
            f"{TITLES[name]}: {int(done.sum())} trainings, {seconds / 3600:.1f} hours of one core, {failed} not done"
        )
    return "; ".join(parts)


def page(studies: dict[str, xr.Dataset]) -> str:
    schedule = lambda norm: lambda c: c.label == f"{norm} schedule"  # noqa: E731
    constants = lambda norm: lambda c: constant_alpha(c) and c.label.startswith(norm)  # noqa: E731
    comparisons = [
        *(
            (f"{n} schedule − best constant α", schedule(k), constants(k))
            for n, k in (("DyT", "dyt"), ("Derf", "derf"))
        ),
        ("DyT schedule − α = 0.5", schedule("dyt"), lambda c: c.label == "dyt 0.5"),
        ("DyT schedule − LayerNorm", schedule("dyt"), lambda c: c.label == "ln"),
        ("DyT α = 0.25 − best constant α", lambda c: c.label == "dyt 0.25", constants("dyt")),
    ]
    with_derf = {k: v for k, v in studies.items() if any(v.norm.values == "derf")}
    sections = [
        "# Does criticality at initialization predict the first 150 steps?",
        EARLY,
        f"Made by `examples/paper/make_stability.py` (criticality {__version__}) from the studies `studies/stability*.yaml`; do not"
        " edit. What is said in words about these numbers is in [the article](../article.md#does-it-decide-training).",
        SETTING + budget(studies) + ".",
        WORDS,
        "## Every choice: log J at initialization; stable rate; score; sensitivity",
    ]
    for name, study in studies.items():
        sections += [f"**{TITLES[name]}**", "\n".join(table_of_choices(study))]
    sections += [
        "![Stable rate and score against log J, at three depths](stability.png)",
        "![Nats learned against the learning rate, at three depths](stability_rates.png)",
        "## How do runs fail?",
        "\n".join(table_of_failures(studies)),
        "## Does log J predict the largest stable learning rate?",
        "\n".join(table_of_correlations(studies, stable)),
        "## Does log J predict the final quality?",
        "\n".join(table_of_correlations(studies, score)),
        NEARNESS,
        "\n".join(table_of_correlations(studies, score, nearness)),
        "## Does a larger α become unstable earlier?",
        "\n".join(falls_with_alpha(studies)),
        "## Does the schedule widen the stable range, and what does a small α cost?",
        "\n".join(table_of_differences(with_derf, comparisons[:2])),
        "\n".join(table_of_differences(studies, comparisons[2:])),
    ]
    return "\n\n".join(sections) + "\n"


def write() -> None:
    """The page and its figures from what is kept."""
    studies = {name: kept_study(name) for name in FIRST_STEPS if (DATA / f"{name}.nc").exists()}
    (FOLDER / "stability.md").write_text(page(studies))
    cost = json.loads((Path(__file__).parent / "data" / "cost.json").read_text())["rows"]
    study = studies["stability"]
    drawn = (("", draw_overview(study)), ("_rates", draw_rates(study)), ("_cost", draw_cost(study, cost)))
    for name, figure in drawn:
        save_figure(figure, FOLDER / f"stability{name}")[1].unlink()


def main() -> None:
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]))
    write()


if __name__ == "__main__":
    main()
