"""Figures of studies/training.md: quality and stability against log J, and how runs end."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from criticality.laboratory import geometric_steps
from criticality.reports import COLOURS, MARKERS, STYLE
from criticality.studies.endings import endings
from criticality.studies.training import Choice, Trainings
from plane import Panel

ALPHAS = (0.3, 0.6, 1.2, 2.4)
POWERS = {"power-1/2": "v", "power-2/3": "^", "power-3/4": "D"}
COLUMNS = {
    "depth 16": ("factorial_16",),
    "depth 32": ("factorial_32", "families_32"),
    "depth 64": ("factorial_64",),
    "ViT": ("vit_alpha",),
}
"""Of the overview, and the studies in each."""

SPREAD = 1.1
"""Factor between symbols that would lie on one another: rates are half decades apart."""


def style(choice: Choice) -> tuple[str, str, str]:
    """Legend entry, colour and marker: colours tell alphas apart, markers kinds of norms."""
    norm, alpha = choice.settings["norm"], choice.settings.get("alpha")
    if norm in ("ln", "rms"):
        name, marker = {"ln": ("LayerNorm", "X"), "rms": ("RMSNorm", "P")}[norm]
        return name, COLOURS[6], marker
    if choice.settings.get("schedule") or choice.settings.get("prescription"):
        return "DyT, schedule", COLOURS[5], "*"
    if norm.startswith("power"):
        return f"power {norm.removeprefix('power-')}", COLOURS[4], POWERS[norm]
    name, marker = {"dyt": ("DyT", "o"), "derf": ("Derf", "s")}[norm]
    return rf"{name}, $\alpha$ = {alpha:g}", COLOURS[ALPHAS.index(alpha)], marker


def draw_overview(studies: dict[str, Trainings]) -> Figure:
    """Quality (above) and largest stable rate (below) against log J, a column for each depth and for the ViT."""
    columns = {
        title: [studies[name] for name in names if name in studies and studies[name].choices]
        for title, names in COLUMNS.items()
    }
    shown = {title: found for title, found in columns.items() if found}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.9 * len(shown) + 0.6, 5.8), layout="constrained")
        rows = figure.subplots(2, len(shown), sharex="col", squeeze=False)
        entries: dict[str, Artist] = {}
        for column, (title, found) in enumerate(shown.items()):
            pairs = [(study, choice) for study in found for choice in study.choices]
            for number, (study, choice) in enumerate(pairs):
                label, colour, marker = style(choice)
                x, result = [study.log_apjn(choice)], choice.result()
                look = {"marker": marker, "color": colour, "mfc": "white", "ls": "", "ms": 6}
                (entry,) = rows[0][column].plot(x, [result.quality], **look)
                beside = SPREAD ** (number % 5 - 2)  # of the same rate and log J several
                rows[1][column].plot(x, [beside * 10**result.log_stable], **look)
                entries.setdefault(label, entry)
            rows[0][column].set_title(f"{title}, {len(pairs)} choices", fontsize=9)
            rows[1][column].set(xlabel=r"$\log\,J(0 \to L)$", yscale="log", ylim=(4e-4, 2))
        ordered = sorted(entries)
        figure.legend([entries[name] for name in ordered], ordered, loc="outside lower center", ncols=4, fontsize=9)
        rows[0][0].set_ylabel("test accuracy, best rate")
        rows[1][0].set_ylabel("largest stable rate")
    return figure


def draw_runs(study: Trainings) -> Figure:
    """Loss (above) and mean slope in training (below): a run that learns, and the worst one of each way to fail that there is."""
    kinds = endings(study.data)
    chosen = [("learns", *_best(study))]
    for ending in ("diverged", "dead", "chaotic"):
        cells = np.argwhere(kinds == ending)
        if len(cells):
            worst = min(cells, key=lambda at: float(study.data.validation_accuracy.values[tuple(at)]))
            chosen.append((ending, int(worst[0]), int(worst[1])))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 5.2), layout="constrained")
        above, below = figure.subplots(2, 1)
        for i, (words, cell, run) in enumerate(chosen):
            _draw_run(study, (above, below), f"{words}: {_name(study, cell)}", cell, run, i)
        above.set(ylabel="training loss", ylim=(0, 4), xlabel="step")
        below.set(
            ylabel=r"$E\,\varphi'^2 / \varphi'(0)^2$, mean over layers",
            xlabel="step",
            yscale="log",
            xscale="symlog",
            xlim=(-0.2, 1.5 * float(study.data.steps.values.max())),
        )
        above.legend(fontsize=7)
    return figure


def _draw_run(study: Trainings, panels: tuple[Axes, Axes], label: str, cell: int, run: int, i: int) -> None:
    losses = study.data.loss_series.values[cell, run].astype(float)
    panels[0].plot(10 * np.arange(len(losses)), losses, color=COLOURS[i], lw=1.2, label=label)
    slopes = np.exp(study.data.log_slope_series.values[cell, run].astype(float)).mean(-1)
    steps = geometric_steps(int(study.data.steps.values[cell]))
    panels[1].plot(steps, slopes, color=COLOURS[i], marker=MARKERS[i], mfc="white", ms=4, lw=1.2)


def _best(study: Trainings) -> tuple[int, int]:
    best = max(study.begun, key=lambda choice: choice.validation.max())
    place = np.unravel_index(int(np.argmax(best.validation)), best.validation.shape)
    return int(best.cells[place[0]]), int(place[1])


def _name(study: Trainings, cell: int) -> str:
    choice = next(choice for choice in study.begun if cell in choice.cells)
    rate = float(study.data.learning_rate.values[cell])
    return rf"{choice.label}, $\sigma_w$ = {choice.settings['sigma_w']:.2g}, rate {rate:.0e}"


def draw_plane(panels: Sequence[Panel]) -> Figure:
    """chi* by theory and test accuracy, the critical line on both: one above the other, or side by side for one kind of network."""
    alone = len(panels) == 1
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 3.3) if alone else (1.7 * len(panels) + 1.1, 3.9), layout="constrained")
        shape = (1, 2) if alone else (2, len(panels))
        rows = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).reshape(2, len(panels))
        for panel, (above, below) in zip(panels, rows.T, strict=True):
            w, b = panel.sigma_w**2, panel.sigma_b**2
            chi = above.pcolormesh(w, b, panel.log_chi, cmap="RdBu_r", vmin=-1, vmax=1)
            accuracy = below.pcolormesh(w, b, panel.accuracy, cmap="viridis", vmin=0.1, vmax=0.9)
            for axes in (above, below):
                if panel.log_chi.min() < 0 < panel.log_chi.max():
                    axes.contour(w, b, panel.log_chi, [0.0], colors="black", linewidths=1.2)
                axes.set(xlabel=r"$\sigma_w^2$", ylabel=r"$\sigma_b^2$")
                axes.label_outer()
            norm = "LayerNorm" if panel.norm == "ln" else "no norm"
            above.set_title(rf"{panel.activation}, {norm}, $\mu$ = {panel.mu:g}", fontsize=9)
        figure.colorbar(chi, ax=rows[0].tolist(), label=r"$\log\,\chi^*$, theory", extend="both")
        figure.colorbar(accuracy, ax=rows[1].tolist(), label="test accuracy")
    return figure


def drawn(studies: dict[str, Trainings]) -> list[tuple[str, Figure, str]]:
    """Name, figure and alternative text of each."""
    found = []
    if any(study.choices for study in studies.values()):
        words = (
            "Quality and largest stable rate against log J at initialization, alpha as colour, a column for each depth"
        )
        found.append(("training", draw_overview(studies), words))
    if "factorial_32" in studies and studies["factorial_32"].begun:
        figure = draw_runs(studies["factorial_32"])
        found.append(
            (
                "training_runs",
                figure,
                "Loss and mean slope of a run that learns and of runs that fail, against the step",
            )
        )
    return found
