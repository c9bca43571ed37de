"""Figures at initialization: the deep ViT and its gradients, theory input by input, and finite width."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import deep
import folds
import tolerances
import widths
from claim.drawing import line, points
from criticality.measurement import log_mean
from criticality.reports import COLOURS, MARKERS, NORM_NAMES, STYLE
from criticality.studies.agreement import fold_error, fold_error_of_noise, tolerance_of
from kept import DATA

Curve = tuple[Mapping[str, Any], Mapping[str, Any]]
Estimate = tuple[np.ndarray, np.ndarray]

# --- deep: variance, correlation and log J of 128 blocks; and gradients beside the APJN ---------------------------------


def over_seeds(curves: Sequence[Curve], alpha: float | None) -> dict[str, Estimate]:
    """Means and standard errors over weight seeds at every kept block; ``ratio`` is the log of pooled over APJN, seed by seed."""
    mine = [values for settings, values in curves if settings["alpha"] == alpha and settings["seed"] is not None]
    found = {}
    for name in ("q", "correlation"):
        values = np.array([one[name] for one in mine])
        found[name] = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(mine))
    for name in ("log_apjn", "log_pooled"):
        found[name] = log_mean(np.array([one[name] for one in mine]))
    ratio = np.array([np.subtract(one["log_pooled"], one["log_apjn"]) for one in mine])
    found["ratio"] = ratio.mean(axis=0), ratio.std(axis=0, ddof=1) / np.sqrt(len(mine))
    return found


def in_theory(curves: Sequence[Curve], alpha: float | None) -> dict[str, np.ndarray]:
    """The same in theory."""
    (values,) = [v for s, v in curves if s["alpha"] == alpha and s["seed"] is None]
    found = {name: np.array(one) for name, one in values.items()}
    return {**found, "ratio": found["log_pooled"] - found["log_apjn"]}


def source() -> dict[str, Any]:
    """What the source's own figures show, digitised."""
    found: dict[str, Any] = json.loads((DATA / "source_part_2.json").read_text())
    return found


def draw_deep(curves: Sequence[Curve]) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 7.2), layout="constrained")
        rows: Any = figure.subfigures(2, 1, height_ratios=(1.1, 1))
        _draw_layers(rows[0].subplots(1, 3), curves)
        _draw_coherence(rows[1].subplots(1, 2), curves)
    return figure


def _draw_layers(panels: Sequence[Axes], curves: Sequence[Curve]) -> None:
    """Variance, correlation and log J at every block."""
    blocks, theirs = np.array(deep.KEPT), source()
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.92, len(deep.ALPHAS)))
    for number, alpha in enumerate(deep.CASES):
        colour = "black" if alpha is None else shades[number - 1]
        measured, theory = over_seeds(curves, alpha), in_theory(curves, alpha)
        label = NORM_NAMES["ln"] if alpha is None else f"α = {alpha:g}"
        for axes, name in zip(panels, ("q", "correlation", "log_apjn"), strict=True):
            axes.plot(blocks, theory[name], color=colour, lw=1.2, ls="--" if alpha is None else "-", label=label)
            at, mean, error = (values[::4] for values in (blocks, *measured[name]))
            axes.errorbar(at, mean, error, fmt="o", ms=3, mfc="white", mew=0.9, color=colour, capsize=1.5, lw=0.8)
        panels[2].plot(theirs["blocks"], np.log(theirs["apjn"][number]), ls="none", marker="x", ms=5, color=colour)
        if theirs["last_variance"][number]:
            panels[0].plot([132], [theirs["last_variance"][number]], marker="x", ms=5, color=colour)
    for axes, title in zip(panels, ("$K_l$", r"$\rho_l$", r"$\log\,J(l \to 128)$"), strict=True):
        axes.set(xlabel="block $l$", ylabel=title)
    panels[0].legend(fontsize=6.5, ncols=2)
    kinds = [
        Line2D([], [], color="#555555", lw=1.2, label="theory"),
        Line2D([], [], ls="none", marker="o", ms=3, mfc="white", color="#555555", label="measured"),
        Line2D([], [], ls="none", marker="x", ms=5, color="#555555", label="the source's figure"),
    ]
    panels[2].legend(handles=kinds, fontsize=8)


def _draw_coherence(panels: Sequence[Axes], curves: Sequence[Curve]) -> None:
    """Gradients from independent starts and from one that is common to all tokens, at block 0; LayerNorm stands at the left."""
    left, right = panels
    at, theirs = [-0.2, *deep.ALPHAS], source()
    apart, common = np.log([row[0] for row in theirs["apjn"]]), np.log(theirs["gradient"])
    rows = (
        (left, "log_apjn", apart, "independent at each token: $J$"),
        (left, "log_pooled", common, "the same at all tokens"),
        (right, "ratio", common - apart, "theory"),
    )
    for style, (axes, name, shown, label) in enumerate(rows):
        theory = [in_theory(curves, alpha)[name][0] for alpha in deep.CASES]
        mean, error = np.array([[part[0] for part in over_seeds(curves, alpha)[name]] for alpha in deep.CASES]).T
        line(axes, at[1:], theory[1:], style, label)
        axes.plot([-0.27, -0.13], [theory[0]] * 2, color=COLOURS[style], lw=1.5)
        points(axes, at, mean, error, style)
        axes.plot(at, shown, ls="none", marker="x", ms=6, color=COLOURS[style])
    left.set(ylabel="log of squared gradients, 0 over 128", ylim=(0, None))
    right.set(ylabel="log of the ratio of the two", ylim=(0, None))
    for axes in panels:
        axes.set_xticks([-0.2, *deep.ALPHAS[::2]], ["LN", *(f"{alpha:g}" for alpha in deep.ALPHAS[::2])])
        axes.set_xlabel(r"$\alpha$ of Derf")
        axes.legend()


# --- folds: how far each theory is from what was measured, input by input -------------------------------------------------

THEORIES = {
    "tokens": "every token its own (this library)",
    "equivalent": "equivalent tokens (this library)",
    "paper": "the paper's recursion",
    "post": "the second post's recursion",
}
FROM = 4
"""The first block that is compared, as in the source: the blocks before it are the class token's, with LayerNorm."""


def gmfe(values: Mapping[str, Any], theory: str, first: int = FROM) -> float:
    """The fold error over blocks from ``first`` to the last but one."""
    return fold_error(values["measured"][first:-1], values[theory][first:-1])


def noise(values: Mapping[str, Any], first: int = FROM) -> float:
    """What the measurement's standard errors alone make of it."""
    return fold_error_of_noise(values["measured_se"][first:-1])


def draw_folds(curves: Sequence[Curve]) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.4, 4.0), layout="constrained")
        panels = figure.subplots(1, len(folds.STRENGTHS), sharey=True, squeeze=False)[0]
        for axes, (sigma, value) in zip(panels, folds.STRENGTHS.items(), strict=True):
            inputs = [values for settings, values in curves if settings["sigma"] == sigma]
            for place, name in enumerate(folds.CASES):
                for style, theory in enumerate(THEORIES):
                    found = np.log([gmfe(values[name], theory) for values in inputs])
                    at = place + 0.2 * (style - 1.5)
                    axes.plot(
                        at + np.linspace(-0.06, 0.06, len(found)),
                        found,
                        ls="none",
                        marker=MARKERS[style],
                        ms=2.5,
                        alpha=0.35,
                        color=COLOURS[style],
                    )
                    low, middle, high = np.quantile(found, (0.25, 0.5, 0.75))
                    quartiles = [[middle - low], [high - middle]]
                    points(axes, [at], [middle], quartiles, style, THEORIES[theory] if place == 0 else "")
                level = np.log(np.mean([noise(values[name]) for values in inputs]))
                axes.plot([place - 0.42, place + 0.42], [level] * 2, color="#888888", lw=1)
            axes.set_xticks(range(len(folds.CASES)), [name.replace("Derf, ", "Derf\n") for name in folds.CASES])
            axes.set_title(rf"weights of $\sigma = {value:.2g}$", fontsize=10)
        ticks = (1.0, 1.01, 1.03, 1.1, 1.3)
        panels[0].set_ylabel(f"GMFE from block {FROM} on")
        for axes in panels:
            axes.set_yscale("symlog", linthresh=0.03)
            axes.set_yticks(np.log(ticks), [f"{tick:g}" for tick in ticks])
            axes.set_yticks([], minor=True)
            axes.set_ylim(0, np.log(ticks[-1]))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


# --- widths: what finite numbers of heads and of channels change ---------------------------------------------------------


def draw_widths(curves: Sequence[Curve]) -> Figure:
    limit, _ = log_mean(drawn(curves)[max(widths.DRAWS)])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        draws = np.array([[number, *log_mean(values)] for number, values in drawn(curves).items()])
        left.fill_between(
            draws[:, 0],
            draws[:, 1] - draws[:, 2] - limit,
            draws[:, 1] + draws[:, 2] - limit,
            color="#888888",
            alpha=0.3,
            lw=0,
        )
        left.plot(draws[:, 0], draws[:, 1] - limit, color="#555555", lw=1.3, label="theory, so many score matrices")
        for style, width in enumerate(sorted({w for w, _ in widths.SIZES})):
            heads = [h for w, h in widths.SIZES if w == width]
            found = np.array([log_mean(measured(curves, width, h)) for h in heads])
            points(left, heads, found[:, 0] - limit, found[:, 1], style, f"measured, width {width}")
        left.axhline(0, color="black", lw=0.8)
        left.set(xscale="log", xlabel="heads", ylabel=r"$\log\,E J(0 \to 12)$ minus the theory")
        left.set_xticks([3, 6, 12, 32, 128, 512], ["3", "6", "12", "32", "128", "512"])
        left.minorticks_off()
        left.legend(fontsize=7.5)
        for style, probe in enumerate(("normal", "pooled")):
            found = np.array([coherence_gap(curves, width, probe) for width in widths.COHERENCE_PARTS])
            points(right, 1 / np.array([*widths.COHERENCE_PARTS]), found[:, 0], found[:, 1], style, f"probe {probe}")
        right.axhline(0, color="black", lw=0.8)
        right.set_xticks(
            [0, *(1 / w for w in widths.COHERENCE_PARTS)], ["0", *(f"1/{w}" for w in widths.COHERENCE_PARTS)]
        )
        right.set(xlim=(0, None), xlabel="1 / width", ylabel=r"$\log\,E J(0 \to 24)$ minus the theory")
        right.legend()
    return figure


# --- tolerances: finite width against the theory, in units of depth over width -----------------------------------------


def draw_tolerances(curves: Sequence[Curve]) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.4), layout="constrained")
        axes = figure.subplots()
        for style, (norm, scores) in enumerate(product(tolerances.NORMS, tolerances.SCORES)):
            found = np.array([tolerance_gap(curves, norm, scores, width) for width in tolerances.PARTS])
            words = f"{'LayerNorm' if norm == 'ln' else 'DyT'}, scores of variance {scores:g}"
            points(axes, np.array([*tolerances.PARTS]) * 1.04 ** (style - 1.5), found[:, 0], found[:, 1], style, words)
        for scores, dash in zip(tolerances.SCORES, ("--", ":"), strict=True):
            allowed = tolerance_of(tolerances.network("ln", scores), 10**9, tolerances.DEPTH) * 10**9 / tolerances.DEPTH
            axes.axhline(allowed, color="#555555", lw=1.2, ls=dash, label=f"tolerated, scores of variance {scores:g}")
        axes.axhline(0, color="black", lw=0.8)
        axes.set(xscale="log", xlabel="width", ylabel=r"excess of $\log\,E J$ $\cdot$ width / depth", ylim=(-0.2, 2.2))
        axes.set_xticks([*tolerances.PARTS], [str(width) for width in tolerances.PARTS])
        axes.minorticks_off()
        axes.legend(fontsize=6.5, ncols=2, loc="upper center")
    return figure


def tolerance_gap(curves: Sequence[Curve], norm: str, scores: float, width: int) -> tuple[float, float]:
    """``log E J`` minus the theory in units of depth over width, and its standard error."""
    mine = [(s["width"], v["log_apjn"]) for s, v in curves if (s["norm"], s["scores"]) == (norm, scores)]
    (expected,) = next(values for at, values in mine if at is None)
    mean, error = log_mean(np.concatenate([values for at, values in mine if at == width]))
    unit = width / tolerances.DEPTH
    return float(mean - expected) * unit, float(error) * unit


def drawn(curves: Sequence[Curve]) -> dict[int, np.ndarray]:
    """Theory: ``log J`` of every run, by the number of score matrices."""
    return {s["draws"]: np.array(v["log_apjn"]) for s, v in curves if "draws" in s}


def measured(curves: Sequence[Curve], width: int, heads: int) -> np.ndarray:
    """``log J`` of every seed."""
    parts = [v["log_apjn"] for s, v in curves if s.get("heads") == heads and s["width"] == width]
    return np.concatenate(parts)


def coherence_gap(curves: Sequence[Curve], width: int, probe: str) -> tuple[float, float]:
    """``log E J`` of 24 blocks of equivalent tokens minus the theory, and its standard error."""
    parts = [v[probe] for s, v in curves if "heads" not in s and s.get("width") == width]
    (expected,) = [v[probe][0] for s, v in curves if "width" in s and s["width"] is None]
    mean, error = log_mean(np.concatenate(parts))
    return float(mean) - expected, float(error)
