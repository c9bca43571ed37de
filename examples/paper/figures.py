"""The article's figures that are not a claim's: what each curve is computed from, and how the figure is drawn.

A figure is a list of settings and one function that computes a curve from one of them, so that any curve can be computed
again by itself and compared with what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

import architectures
import asymptotes
import deep
import draw_initial
import folds
import gradients
import llama
import tolerances
import widths
from criticality.phases import ResidualStep, amplification, critical_line, fixed_point_of
from criticality.pointwise import Pointwise, get_function
from criticality.prescription import scheduled_log_apjn
from criticality.reports import COLOURS, DASHES, NORM_NAMES, STYLE
from criticality.theory import make_norm
from explorer import mlp_explorer

Settings = Mapping[str, Any]
Values = dict[str, Any]
Curve = tuple[Settings, Values]


@dataclass(frozen=True)
class PaperFigure:
    """``settings`` of the curves, the function ``(settings, seed)`` that computes one, and the drawing of all; a curve computed
    again may differ by ``tolerance``, relative: more where the models are in single precision."""

    settings: Sequence[Settings]
    curve: Callable[[Settings, int], Values]
    draw: Callable[[Sequence[Curve]], Figure]
    tolerance: float = 1e-6


SINGLE_PRECISION = 1e-3


# --- growth: log J against depth, to a million layers ---------------------------------------------------------------

GROWTH_DEPTHS = [int(d) for d in np.unique(np.round(np.geomspace(1, 1e6, 49)))]


def growth_curve(settings: Settings, seed: int) -> Values:
    if settings["norm"] == "schedule":
        scheduled = partial(scheduled_log_apjn, Pointwise("tanh"), settings["alpha"])
        return {"log_apjn": [scheduled(depth) for depth in GROWTH_DEPTHS]}
    norm = make_norm(settings["norm"], settings["alpha"])
    return {"log_apjn": amplification(ResidualStep(norm), GROWTH_DEPTHS).tolist()}


def draw_growth(curves: Sequence[Curve]) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.8), layout="constrained")
        axes = figure.subplots()
        for style, (settings, values) in enumerate(curves):
            axes.plot(
                GROWTH_DEPTHS,
                values["log_apjn"],
                color=COLOURS[style],
                dashes=DASHES[style],
                lw=1.7,
                label=settings["label"],
            )
        axes.set(xscale="log", yscale="log", xlabel="depth $L$", ylabel=r"$\log\,J(0 \to L)$", ylim=(0.3, 3000))
        axes.legend()
    return figure


# --- phases: the plain tanh network, and correlations on either side of its critical line ----------------------------

PHASE_SIGMA_W = np.linspace(0.6, 2.6, 81)
TRAJECTORIES = ((0.9, "ordered"), (None, "critical"), (1.8, "chaotic"))
PHASE_SIGMA_B = 0.3
LAYERS = 30


def phases_curve(settings: Settings, seed: int) -> Values:
    if "sigma_b" in settings:
        points = [fixed_point_of(get_function("tanh"), w**2, settings["sigma_b"] ** 2) for w in PHASE_SIGMA_W]
        line = critical_line(get_function("tanh"), np.array([settings["sigma_b"]]))
        return {"log_chi": np.log([p.chi for p in points]).tolist(), "line": float(line[0])}
    sigma_w = settings["sigma_w"] or float(critical_line(get_function("tanh"), np.array([PHASE_SIGMA_B]))[0])
    table = mlp_explorer("tanh", (sigma_w,), (PHASE_SIGMA_B,), (settings["rho"],), range(LAYERS + 1))
    return {"rho": table.rho.values.ravel().tolist(), "sigma_w": sigma_w}


def draw_phases(curves: Sequence[Curve]) -> Figure:
    rows = [(s["sigma_b"], v) for s, v in curves if "sigma_b" in s]
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9.4, 3.3), layout="constrained")
        axes = figure.subplots(1, 4, width_ratios=(1.7, 1, 1, 1))
        table = np.array([v["log_chi"] for _, v in rows])
        image = axes[0].pcolormesh(
            PHASE_SIGMA_W,
            [b for b, _ in rows],
            table,
            cmap="PuOr_r",
            vmin=-1,
            vmax=1,
            shading="nearest",
            rasterized=True,
        )
        axes[0].plot([v["line"] for _, v in rows], [b for b, _ in rows], color="black", lw=1.8)
        axes[0].text(0.03, 0.9, "ordered", transform=axes[0].transAxes, color="white")
        axes[0].text(0.94, 0.06, "chaotic", transform=axes[0].transAxes, ha="right")
        axes[0].set(xlabel=r"$\sigma_w$", ylabel=r"$\sigma_b$")
        figure.colorbar(image, ax=axes[0], label=r"$\log\,\chi$", extend="both")
        for panel, (sigma_w, name) in zip(axes[1:], TRAJECTORIES, strict=True):
            mine = [(s, v) for s, v in curves if "rho" in s and s["sigma_w"] == sigma_w]
            for style, (_, values) in enumerate(mine):
                panel.plot(values["rho"], color=COLOURS[style], dashes=DASHES[style], lw=1.5)
            panel.set(
                xlabel="layer $l$", ylim=(-0.03, 1.03), title=rf"{name}, $\sigma_w = {mine[0][1]['sigma_w']:.2f}$"
            )
            panel.title.set_fontsize(10)
            axes[0].plot([mine[0][1]["sigma_w"]], [PHASE_SIGMA_B], marker="o", ms=6, mfc="white", color="black")
        axes[1].set_ylabel(r"correlation $\rho_l$ of two inputs")
        for panel in axes[2:]:
            panel.set_yticklabels([])
    return figure


# --- alpha: the local exponent over alpha and depth ------------------------------------------------------------------

ALPHA_DEPTHS = [int(d) for d in np.unique(np.round(np.geomspace(4, 4096, 61)))]
ALPHAS = np.geomspace(0.02, 8, 53)


def alpha_curve(settings: Settings, seed: int) -> Values:
    step = ResidualStep(make_norm("dyt", settings["alpha"]))
    return {"log_apjn": amplification(step, ALPHA_DEPTHS).tolist()}


def draw_alpha(curves: Sequence[Curve]) -> Figure:
    log_apjn = np.array([v["log_apjn"] for _, v in curves])
    alphas = np.array([s["alpha"] for s, _ in curves])
    exponent = np.gradient(np.log(log_apjn), np.log(ALPHA_DEPTHS), axis=1)
    layer_norm = np.log(np.array(ALPHA_DEPTHS) + 1.0)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        image = left.pcolormesh(
            ALPHA_DEPTHS, alphas, exponent, cmap="cividis", shading="nearest", rasterized=True, vmin=0.4
        )
        lines = left.contour(ALPHA_DEPTHS, alphas, exponent, levels=[0.55, 0.75], colors="white", linewidths=1.2)
        left.clabel(lines, fmt="%.2f", fontsize=8)
        figure.colorbar(image, ax=left, label=r"$\mathrm{d}\log\log J\,/\,\mathrm{d}\log L$")
        scale = LogNorm(vmin=0.1, vmax=float(log_apjn.max()))
        image = right.pcolormesh(
            ALPHA_DEPTHS, alphas, log_apjn, cmap="cividis", norm=scale, shading="nearest", rasterized=True
        )
        right.contour(ALPHA_DEPTHS, alphas, log_apjn - layer_norm, levels=[0.0], colors="white", linewidths=2)
        right.set_title(r"white: the $\alpha$ that amplifies as LayerNorm does", fontsize=9)
        left.set_title("1: exponential; 1/2: stretched exponential", fontsize=9)
        figure.colorbar(image, ax=right, label=r"$\log\,J(0 \to L)$", extend="min")
        for axes in (left, right):
            axes.set(xscale="log", yscale="log", xlabel="depth $L$", ylabel=r"$\alpha$")
    return figure


GROWTH_SETTINGS = (
    ("dyt", 4.0, "DyT, α = 4"),
    ("dyt", 1.0, "DyT, α = 1"),
    ("derf", 1.0, "Derf, α = 1"),
    ("dyt", 0.25, "DyT, α = 0.25"),
    ("schedule", 1.0, r"DyT, $\alpha_l = 1/\sqrt{K_l}$"),
    ("none", None, NORM_NAMES["none"]),
    ("ln", None, NORM_NAMES["ln"]),
)

FIGURES: dict[str, PaperFigure] = {
    "growth": PaperFigure(
        [{"norm": norm, "alpha": alpha, "label": label} for norm, alpha, label in GROWTH_SETTINGS],
        growth_curve,
        draw_growth,
    ),
    "phases": PaperFigure(
        [{"sigma_b": float(b)} for b in np.linspace(0.01, 0.5, 50)]
        + [{"sigma_w": w, "rho": rho} for w, _ in TRAJECTORIES for rho in (0.0, 0.3, 0.6, 0.9)],
        phases_curve,
        draw_phases,
    ),
    "alpha": PaperFigure([{"alpha": float(alpha)} for alpha in ALPHAS], alpha_curve, draw_alpha),
    "orders": PaperFigure(asymptotes.ORDERS, asymptotes.orders_curve, asymptotes.draw_orders),
    "profiles": PaperFigure(asymptotes.PROFILES, asymptotes.profiles_curve, asymptotes.draw_profiles),
    "matching": PaperFigure(asymptotes.MATCHING, asymptotes.matching_curve, asymptotes.draw_matching),
    "susceptibility": PaperFigure(
        asymptotes.SUSCEPTIBILITY, asymptotes.susceptibility_curve, asymptotes.draw_susceptibility
    ),
    "powers": PaperFigure(asymptotes.POWERS, asymptotes.powers_curve, asymptotes.draw_powers),
    "architectures": PaperFigure(architectures.SETTINGS, architectures.curve, architectures.draw, SINGLE_PRECISION),
    "deep": PaperFigure(deep.SETTINGS, deep.curve, draw_initial.draw_deep, SINGLE_PRECISION),
    "gradients": PaperFigure(gradients.SETTINGS, gradients.curve, gradients.draw, SINGLE_PRECISION),
    "folds": PaperFigure(folds.SETTINGS, folds.curve, draw_initial.draw_folds, SINGLE_PRECISION),
    "tolerances": PaperFigure(tolerances.SETTINGS, tolerances.curve, draw_initial.draw_tolerances, SINGLE_PRECISION),
    "llama": PaperFigure(llama.SETTINGS, llama.curve, llama.draw, SINGLE_PRECISION),
    "widths": PaperFigure(widths.SETTINGS, widths.curve, draw_initial.draw_widths, SINGLE_PRECISION),
}
