"""Figures of comparisons and measurements: theory as lines, measurement as points with error bars.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; markers and dashes repeat what
colour says, so that a print in grey can be read.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from criticality.arguments import checked, shown
from criticality.errors import ArgumentError
from criticality.schema import require_variables

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ((), (6, 2), (2, 1.5), (6, 2, 1.5, 2), (10, 3), (1, 1), (4, 1, 1, 1, 1, 1))

NORM_NAMES = {"own": "own norms", "ln": "LayerNorm", "rms": "RMSNorm", "dyt": "DyT", "derf": "Derf", "none": "no norm"}

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "criticality",
}


_ROW = {"function", "alpha", "log_apjn", "class", "exponent"}


@checked
def apjn_figure(result: xr.Dataset) -> Figure:
    """``log J(l -> L)`` against ``l``: a panel for each norm (columns) and initialization (rows)."""
    return _panels(result, "log_apjn", r"$\log\,J(l \to L)$", symmetric=True)


@checked
def kernel_figure(result: xr.Dataset) -> Figure:
    """``q_l``, mean over tokens of ``|x_a|^2 / n``, against ``l``; panels as in ``apjn_figure``."""
    return _panels(result, "q", r"$q_l = \langle |x_a|^2 \rangle_a / n$")


@checked
def correlation_figure(result: xr.Dataset) -> Figure:
    """Mean correlation of different tokens against ``l``; panels as in ``apjn_figure``."""
    return _panels(result, "correlation", r"$\langle \rho_{ab} \rangle_{a \neq b}$")


def _panels(result: xr.Dataset, quantity: str, label: str, symmetric: bool = False) -> Figure:
    require_variables(
        result, "result", "norm", "init", *(f"{quantity}_{part}" for part in ("predicted", "measured", "se"))
    )
    norms = list(dict.fromkeys(result.norm.values.tolist()))
    inits = list(dict.fromkeys(result.init.values.tolist()))
    alphas = sorted({float(alpha) for alpha in result.alpha.values if np.isfinite(alpha)})
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.1 * len(norms) + 0.5, 2.7 * len(inits) + 0.4), layout="constrained")
        grid = figure.subplots(len(inits), len(norms), sharex=True, sharey="row", squeeze=False)
        for (row, init), (column, norm) in itertools.product(enumerate(inits), enumerate(norms)):
            axes = grid[row, column]
            panel = result.isel(case=np.flatnonzero((result.norm.values == norm) & (result.init.values == init)))
            for case in (panel.isel(case=i) for i in range(panel.sizes["case"])):
                alpha = float(case.alpha)
                pointwise = bool(np.isfinite(alpha))
                style = alphas.index(alpha) % len(COLOURS) if pointwise else len(COLOURS) - 1
                _draw_case(axes, case, quantity, style, rf"$\alpha = {alpha:g}$" if pointwise else "all tokens")
                if symmetric and not pointwise and bool(case.log_apjn_symmetric.notnull().all()):
                    axes.plot(
                        case.block, case.log_apjn_symmetric, color="#888888", lw=1, ls=":", label="equivalent tokens"
                    )
            if panel.sizes["case"]:
                axes.legend()
            title = NORM_NAMES.get(norm, norm)
            axes.set_title(f"{title}, {init} init" if len(inits) > 1 else title, fontsize=10)
        for row in grid:
            row[0].set_ylabel(label)
            low, high = row[0].get_ylim()
            row[0].set_ylim(bottom=low if low < -0.1 * high else -0.02 * high)
        for axes in grid[-1]:
            axes.set_xlabel("block $l$")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _draw_case(axes: Axes, case: xr.Dataset, quantity: str, style: int, label: str) -> None:
    """Theory as a line, measurement as points with error bars, and one legend entry for both."""
    colour, dashes, marker = COLOURS[style], DASHES[style], MARKERS[style]
    axes.plot(case.block, case[f"{quantity}_predicted"], color=colour, dashes=dashes, lw=1.6)
    axes.errorbar(
        case.block,
        case[f"{quantity}_measured"],
        yerr=case[f"{quantity}_se"].fillna(0),
        fmt=marker,
        color=colour,
        ms=4,
        mfc="white",
        mew=1.1,
        lw=1,
        capsize=2,
    )
    axes.plot([], [], color=colour, dashes=dashes, marker=marker, mfc="white", label=label)


@checked
def heat_map(pairs: xr.Dataset, title: str = "") -> Figure:
    """``log J(l -> m)`` between any two layers, from ``measure_between``."""
    require_variables(pairs, "pairs", "log_apjn", "block", "target_block")
    values = pairs.log_apjn.values
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(4.6, 3.9), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(values.T, origin="lower", cmap="cividis", interpolation="nearest")
        axes.set_xlabel("from block $l$")
        axes.set_ylabel("to block $m$")
        axes.set_title(fill(title, 46), fontsize=10)
        figure.colorbar(image, ax=axes, label=r"$\log\,J(l \to m)$")
    return figure


def zoo_figure(rows: Sequence[Mapping[str, Any]], depth: int = 1000) -> Figure:
    """``log J(0 -> depth)`` of every function, a row each, ordered at alpha = 1; colour and marker say alpha.

    ``rows`` as ``criticality.phases.zoo_table`` gives them; each function's class stands beside its name.

    Raises:
        ArgumentError: rows of another kind, or none with a finite ``log J`` at that depth.
    """
    if isinstance(rows, (str, xr.Dataset)) or not all(isinstance(row, Mapping) and row.keys() >= _ROW for row in rows):
        raise ArgumentError(
            f"rows must be those of zoo_table, each with {', '.join(sorted(_ROW))}, and are {shown(rows)}"
        )
    rows = [row for row in rows if np.isfinite(row["log_apjn"].get(depth, np.nan))]
    if not rows:
        raise ArgumentError(f"rows must hold a finite log J at depth={depth!r}, and none does")
    alphas = sorted({row["alpha"] for row in rows})
    middle = min(alphas, key=lambda alpha: abs(np.log(alpha)))
    ranked = sorted((row for row in rows if row["alpha"] == middle), key=lambda row: -row["log_apjn"][depth])
    height = {row["function"]: number for number, row in enumerate(ranked)}
    rows = [row for row in rows if row["function"] in height]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.4, 0.27 * len(ranked) + 1.2), layout="constrained")
        axes = figure.subplots()
        for style, alpha in enumerate(alphas):
            chosen = [row for row in rows if row["alpha"] == alpha]
            axes.plot(
                [row["log_apjn"][depth] for row in chosen],
                [height[row["function"]] for row in chosen],
                ls="",
                marker=MARKERS[style % len(MARKERS)],
                color=COLOURS[style % len(COLOURS)],
                mfc="white",
                label=rf"$\alpha = {alpha:g}$",
            )
        axes.set_xscale("log")
        labels = [f"{row['function']}  ({row['class']}, {row['exponent']:.2g})" for row in ranked]
        axes.set_yticks(range(len(ranked)), labels)
        axes.set_xlabel(
            rf"$\log\,J(0 \to {depth})$ of $x + W\phi(\alpha x)$; class and exponent at $\alpha = {middle:g}$"
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.06), ncols=len(alphas))
    return figure


def map_figure(
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    x_label: str,
    y_label: str,
    label: str,
    *,
    title: str = "",
    line: np.ndarray | None = None,
    contours: bool = False,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """A map over two parameters; with ``line``, the ``x`` of the critical line at each ``y``, colours part at zero there.

    ``contours`` draws lines of equal value, labelled.

    Raises:
        ArgumentError: values of another shape than ``(y, x)``, or none that is finite.
    """
    x, y, values = (np.asarray(array, dtype=float) for array in (x, y, values))
    if values.shape != (len(y), len(x)) or not np.isfinite(values).any():
        raise ArgumentError(
            f"values of shape {values.shape} must be a map of shape {(len(y), len(x))}, over y and x, with numbers that are finite"
        )
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(5.2, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log" if log_x else "linear")  # before contours, whose labels are placed on what is there
        axes.set_yscale("log" if log_y else "linear")
        reach = float(np.nanmax(np.abs(values[np.isfinite(values)])))
        signed = line is not None or values.min() < 0 < values.max()
        if not signed:
            wide = values.min() > 0 and values.max() > 50 * values.min()
            image = axes.pcolormesh(
                x, y, values, cmap="cividis", norm="log" if wide else None, shading="nearest", rasterized=True
            )
        else:
            image = axes.pcolormesh(
                x, y, values, cmap="PuOr_r", vmin=-reach, vmax=reach, shading="nearest", rasterized=True
            )
        if contours:
            levels = _levels(values)
            drawn = axes.contour(x, y, values, levels=levels, colors="white", linewidths=1.0)
            axes.clabel(drawn, fmt="%g", fontsize=8)
        elif signed and line is None:
            axes.contour(x, y, values, levels=[0.0], colors="black", linewidths=1.8)
        if line is not None:
            axes.plot(line, y, color="black", lw=1.8)
            axes.set_xlim(x[0], x[-1])
            axes.text(0.3, 0.92, "ordered", transform=axes.transAxes)
            axes.text(0.95, 0.08, "chaotic", transform=axes.transAxes, ha="right")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_title(fill(title, 46), fontsize=10)
        figure.colorbar(image, ax=axes, label=label)
    return figure


def _levels(values: np.ndarray) -> np.ndarray:
    """About six round values between the smallest and the largest."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low > 0 and high > 50 * low:
        steps = np.outer(10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high))), [1, 2, 5]).ravel()
        return steps[(steps > low) & (steps < high)][-7:]
    return np.asarray(MaxNLocator(6).tick_values(low, high))[1:-1]


@checked
def save_figure(figure: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write ``stem.png`` (200 dpi) and ``stem.svg``; the folder is made when missing."""
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = stem.parent / f"{stem.name}.png", stem.parent / f"{stem.name}.svg"
    with mpl.rc_context(STYLE):
        figure.savefig(paths[0], dpi=200)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths
