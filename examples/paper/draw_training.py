"""Figures of studies/training.md: quality and stability against log J, and how runs end."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from criticality.laboratory import geometric_steps
from criticality.reports import COLOURS, MARKERS, STYLE
from criticality.studies.endings import endings
from criticality.studies.training import Choice, Trainings
from plane import read_panels

ALPHAS = (0.3, 0.6, 1.2, 2.4)
SPREAD = 1.1
"""Factor between symbols that would lie on one another: rates are half decades apart."""


def style(choice: Choice) -> tuple[str, int]:
    """Legend entry and place in the cycle: by alpha among DyT's."""
    norm, alpha = choice.settings["norm"], choice.settings.get("alpha")
    if norm in ("ln", "rms"):
        return {"ln": "LayerNorm", "rms": "RMSNorm"}[norm], 6
    if choice.settings.get("schedule"):
        return "schedule", 5
    return (f"α = {alpha:g}", ALPHAS.index(alpha)) if alpha in ALPHAS and norm == "dyt" else (norm, 4)


def draw_overview(studies: dict[str, Trainings]) -> Figure:
    """Quality (above) and largest stable rate (below) against log J, a column for each study."""
    shown = {name: study for name, study in studies.items() if study.choices and name != "long_32"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(shown) + 0.8, 5.2), layout="constrained")
        rows = figure.subplots(2, len(shown), sharex="col", squeeze=False)
        entries: dict[str, Artist] = {}
        for column, (name, study) in enumerate(shown.items()):
            labelled: set[str] = set()
            for choice in sorted(study.choices, key=lambda one: style(one)[1]):
                label, i = style(choice)
                x = [study.log_apjn(choice)]
                marks = {"marker": MARKERS[i], "color": COLOURS[i], "mfc": "white", "ls": "", "ms": 6}
                result = choice.result()
                rows[0][column].plot(x, [result.quality], label=None if label in labelled else label, **marks)
                beside = SPREAD ** ((i - 3) / 2)  # of the same rate and log J several
                rows[1][column].plot(x, [beside * 10**result.log_stable], **marks)
                labelled.add(label)
            rows[0][column].set_title(f"{name}\n{study.progress}", fontsize=8.5)
            rows[1][column].set(xlabel=r"$\log\,J(0 \to L)$ at initialization", yscale="log")
            entries |= dict(zip(*reversed(rows[0][column].get_legend_handles_labels()), strict=True))
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4, fontsize=8)
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


def draw_plane(data: xr.Dataset) -> Figure:
    """A column for each kind of network: chi* by theory (above) and test accuracy (below), the critical line on both."""
    panels = [panel for panel in read_panels(data) if panel.rates.any()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.5 * len(panels) + 1.2, 4.8), layout="constrained")
        rows = figure.subplots(2, len(panels), sharex=True, sharey=True, squeeze=False)
        for column, panel in enumerate(panels):
            w, b = panel.sigma_w**2, panel.sigma_b**2
            above = rows[0][column].pcolormesh(w, b, panel.log_chi, cmap="RdBu_r", vmin=-1, vmax=1)
            below = rows[1][column].pcolormesh(w, b, panel.accuracy, cmap="viridis", vmin=0.1, vmax=0.9)
            if panel.log_chi.min() < 0 < panel.log_chi.max():
                for row in rows:
                    row[column].contour(w, b, panel.log_chi, [0.0], colors="black", linewidths=1.2)
            norm = "LayerNorm" if panel.norm == "ln" else "no norm"
            rows[0][column].set_title(rf"{panel.activation}, {norm}, $\mu$ = {panel.mu:g}", fontsize=9)
            rows[1][column].set_xlabel(r"$\sigma_w^2$")
        for row, shown, label in ((0, above, r"$\log \chi^*$, theory"), (1, below, "test accuracy")):
            rows[row][0].set_ylabel(r"$\sigma_b^2$")
            figure.colorbar(shown, ax=rows[row].tolist(), label=label)
    return figure


def drawn(studies: dict[str, Trainings]) -> list[tuple[str, Figure, str]]:
    """Name, figure and alternative text of each."""
    found = []
    if any(study.choices for study in studies.values()):
        words = (
            "Quality and largest stable rate against log J at initialization, alpha as colour, a column for each study"
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
