"""Write studies/stability.md from the store of the study: ``python docs/make_stability.py STORE.zarr``.

The store is made by ``criticality sweep run docs/studies/stability.yaml``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from criticality import __version__
from criticality.reports.figures import COLOURS, MARKERS, STYLE, save_figure
from criticality.schema import write_dataset
from criticality.studies.stability import Choice, choices, correlation
from criticality.sweeps.store import Store

FOLDER = Path(__file__).parent / "studies"


def style(choice: Choice) -> int:
    return {"ln": 6, "dyt": 0, "derf": 1}[choice.label.split()[0]] if "schedule" not in choice.label else 2


def pointwise(choice: Choice) -> bool:
    return choice.label != "ln"


def main() -> None:
    store = Store(sys.argv[1])
    study = store.dataset()
    write_dataset(study, FOLDER / "stability.nc")
    found = choices(study)
    stable = correlation(study, lambda c: c.largest_stable, keep=pointwise)
    quality = correlation(study, lambda c: c.best_score, keep=pointwise)
    rates = np.unique(study.learning_rate.values)
    seeds = len(np.unique(study.seed.values))
    counts = store.counts()
    lines = [
        "# Does criticality at initialization predict training?",
        "",
        f"Made by `docs/make_stability.py` (criticality {__version__}) from `studies/stability.yaml`; do not edit."
        " ViT on digits, width"
        f" {int(study.width.values[0])}, {int(study.steps.values[0])} steps of AdamW, batch"
        f" {int(study.batch.values[0])}, no warm-up, fan-in"
        f" weights, learning rates {', '.join(f'{r:g}' for r in rates)}, {seeds} seeds; {counts['done']} trainings,"
        f" {counts['failed']} failed.",
        "",
        "A run trains when its last ten losses average below 0.9 of its first. The largest stable rate is the"
        " largest at which most seeds"
        " train (0: at none). Score: accuracy on held-out digits, median over seeds, at the best rate.",
        "",
        "| Choice | depth | log J(0→L) | largest stable rate | best score |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.label} | {c.depth} | {c.log_apjn:.2f} | {c.largest_stable:g} | {c.best_score:.3f} |" for c in found
    ]
    near = correlation(
        study, lambda c: c.best_score, keep=pointwise, order=lambda c: -abs(c.log_apjn - layer_norm(found))
    )
    lines += [
        "",
        f"- Rank correlation of log J and the largest stable rate, pointwise norms: {stable.value:+.2f}, 95 per"
        " cent interval"
        f" {stable.low:+.2f} to {stable.high:+.2f} ({stable.choices} choices).",
        f"- Rank correlation of log J and the best score: {quality.value:+.2f}, {quality.low:+.2f} to"
        f" {quality.high:+.2f}.",
        "- "
        + verdict(
            stable.low, stable.high, "larger log J goes with a smaller stable learning rate", "stable learning rate"
        ),
        "- " + verdict(quality.low, quality.high, "larger log J goes with a worse score", "score"),
        "",
        "- Seen afterwards, and so to be tested by another study: the score is best near LayerNorm's log J. Rank"
        " correlation of the"
        f" score and of how near log J is to it: {near.value:+.2f}, {near.low:+.2f} to {near.high:+.2f}. Both too"
        " small and too large an α"
        " cost quality here, and the schedule, matched to LayerNorm, does better than every constant α.",
        "",
        "![Stable learning rate and score against log J](stability.png)",
        "",
        "Limits: one task, one depth, one width, one optimizer, no warm-up and few steps, after which even"
        " LayerNorm is far from done: what a"
        " long training does is not decided here. The machine was shared while it ran, so that times of steps are"
        " not given.",
        "",
    ]
    (FOLDER / "stability.md").write_text("\n".join(lines))
    draw(found)


def layer_norm(found: list[Choice]) -> float:
    """``log J`` of LayerNorm."""
    return next(c.log_apjn for c in found if c.label == "ln")


def verdict(low: float, high: float, claim: str, quantity: str) -> str:
    if high < 0:
        return f"In this study {claim}: the interval excludes 0."
    if low > 0:
        return f"In this study the opposite of the claim is seen for the {quantity}: the interval lies above 0."
    return f"This study does not decide whether {claim}: the interval holds 0."


def draw(found: list[Choice]) -> None:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes = figure.subplots(1, 2)
        smallest = min((c.largest_stable for c in found if c.largest_stable), default=1e-4) / 3
        for c in found:
            i = style(c)
            marks = {"marker": MARKERS[i], "color": COLOURS[i], "mfc": "white", "ls": "", "ms": 6}
            axes[0].plot([c.log_apjn], [c.largest_stable or smallest], **marks)
            axes[1].plot([c.log_apjn], [c.best_score], **marks)
            axes[1].annotate(c.label, (c.log_apjn, c.best_score), fontsize=6, xytext=(3, 3), textcoords="offset points")
        axes[0].set(xlabel=r"$\log\,J(0 \to L)$ at initialization", ylabel="largest stable learning rate", yscale="log")
        axes[1].set(xlabel=r"$\log\,J(0 \to L)$ at initialization", ylabel="best score")
        for i, label in ((6, "LayerNorm"), (0, "DyT"), (1, "Derf"), (2, "schedule")):
            axes[0].plot([], [], marker=MARKERS[i], color=COLOURS[i], mfc="white", ls="", label=label)
        axes[0].legend()
    save_figure(figure, FOLDER / "stability")
    (FOLDER / "stability.svg").unlink()


if __name__ == "__main__":
    main()
