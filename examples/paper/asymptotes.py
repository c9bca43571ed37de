"""The article's figures on finite depth: two orders of growth, profiles, two ways to match alpha, last susceptibilities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy.optimize import brentq

from criticality.phases import (
    BlockStep,
    ResidualStep,
    amplification,
    amplification_map,
    crossover_depth,
    layer_norm_exponent_with_attention,
    layer_norm_susceptibility,
    stretched_growth,
    stretched_scale,
)
from criticality.pointwise import Pointwise, get_function
from criticality.reports import COLOURS, DASHES, NORM_NAMES, STYLE
from criticality.theory import (
    MLP,
    Attention,
    LayerNorm,
    Linear,
    SymmetricKernel,
    make_norm,
    propagate,
    resnet,
    transformer,
)

Settings = Mapping[str, Any]
Values = dict[str, Any]
Curve = tuple[Settings, Values]

# --- orders: what the leading order of log J leaves out, and local exponents ------------------------------------------

ORDER_DEPTHS = [int(d) for d in np.unique(np.round(np.geomspace(1, 1e6, 61)))]
ORDERS = [
    {"norm": n, "function": f, "alpha": a}
    for n, f, a in (("dyt", "tanh", 0.5), ("dyt", "tanh", 1.0), ("dyt", "tanh", 2.0), ("derf", "erf", 1.0))
]


def orders_curve(settings: Settings, seed: int) -> Values:
    growth = stretched_growth(get_function(settings["function"]), settings["alpha"])
    log_apjn = amplification(ResidualStep(make_norm(settings["norm"], settings["alpha"])), ORDER_DEPTHS)
    return {"log_apjn": log_apjn.tolist(), "rate": growth.rate, "logarithm": growth.logarithm}


def draw_orders(curves: Sequence[Curve]) -> Figure:
    depths = np.array(ORDER_DEPTHS, dtype=float)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for style, (settings, values) in enumerate(curves):
            log_apjn = np.array(values["log_apjn"])
            rest = log_apjn - values["rate"] * np.sqrt(depths)
            label = f"{NORM_NAMES[settings['norm']]}, α = {settings['alpha']:g}"
            left.plot(depths, rest, color=COLOURS[style], dashes=DASHES[style], lw=1.7, label=label)
            constant = rest[-1] - values["logarithm"] * math.log(depths[-1])
            left.plot(depths, values["logarithm"] * np.log(depths) + constant, color=COLOURS[style], lw=0.8, alpha=0.6)
            exponent = np.gradient(np.log(log_apjn), np.log(depths))
            right.plot(depths, exponent, color=COLOURS[style], dashes=DASHES[style], lw=1.7, label=label)
        right.axhline(0.5, color="#888888", lw=0.8)
        left.set(xscale="log", xlabel="depth $L$", ylabel=r"$\log J - c\sqrt{L}$", title=r"thin: $b\,\log L + C$")
        right.set(xscale="log", xlabel="depth $L$", ylabel=r"$d \log\log J \,/\, d \log L$", title="local exponent")
        for axes in (left, right):
            axes.title.set_fontsize(10)
        left.legend(fontsize=7.5)
    return figure


# --- profiles: variance and amplification layer by layer, with the layer at which alpha^2 K = 1 ----------------------

PROFILE_DEPTH, PROFILE_WEIGHT_VARIANCE = 128, 0.46**2
PROFILES = [{"alpha": round(0.1 + 0.2 * k, 1)} for k in range(10)] + [{"alpha": None}]


def profiles_curve(settings: Settings, seed: int) -> Values:
    alpha = settings["alpha"]
    norm = make_norm("ln" if alpha is None else "derf", alpha)
    profile = propagate(resnet(norm, PROFILE_DEPTH, PROFILE_WEIGHT_VARIANCE), SymmetricKernel.of(1.0, 0.0))
    values = {"q": profile.q.values.tolist(), "log_apjn": profile.log_apjn.values.tolist()}
    if alpha is not None:
        values["crossover"] = crossover_depth(get_function("erf"), alpha, PROFILE_WEIGHT_VARIANCE)
    return values


def draw_profiles(curves: Sequence[Curve]) -> Figure:
    layers = np.arange(PROFILE_DEPTH + 1)
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(curves) - 1))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        panels = figure.subplots(1, 2)
        for number, (settings, values) in enumerate(curves):
            plain = settings["alpha"] is None
            look = {"color": "black", "ls": "--"} if plain else {"color": shades[number]}
            for axes, key in zip(panels, ("q", "log_apjn"), strict=True):
                label = NORM_NAMES["ln"] if plain else f"α = {settings['alpha']:g}"
                axes.plot(layers, values[key], lw=1.4, label=label, **look)
                if 0 < values.get("crossover", 0) <= PROFILE_DEPTH:
                    at = np.interp(values["crossover"], layers, values[key])
                    axes.plot([values["crossover"]], [at], marker="o", ms=5, **look)
        panels[0].set(xlabel="layer $l$", ylabel="$K_l$")
        panels[1].set(xlabel="layer $l$", ylabel=r"$\log\,J(l \to 128)$")
        panels[0].legend(fontsize=6.5, ncols=2)
    return figure


# --- matching: the alpha with LayerNorm's J, and the one with nine tenths of its K ------------------------------------

MATCHED_DEPTHS = (12, 24, 48, 128, 256, 512, 1024)
MATCHED_SHARE = 0.9
MATCHING = [{"depth": depth} for depth in MATCHED_DEPTHS]


def matching_curve(settings: Settings, seed: int) -> Values:
    """Derf, unit weights and input: both alphas, and there ``log J`` and ``K_L`` over LayerNorm's ``1 + L``."""
    depth = settings["depth"]

    def at(log_alpha: float) -> tuple[float, float]:
        profile = propagate(resnet(make_norm("derf", math.exp(log_alpha)), depth), SymmetricKernel.of(1.0, 0.0))
        return float(profile.log_apjn[0]), float(profile.q[-1]) / (1 + depth)

    target = math.log1p(depth)
    by_j = brentq(lambda y: at(y)[0] - target, math.log(1e-3), math.log(50))
    by_k = brentq(lambda y: at(y)[1] - MATCHED_SHARE, math.log(1e-3), math.log(50))
    return {
        "alpha_by_j": math.exp(by_j),
        "share_by_j": at(by_j)[1],
        "alpha_by_k": math.exp(by_k),
        "log_apjn_by_k": at(by_k)[0],
        "log_apjn_of_layer_norm": target,
    }


def draw_matching(curves: Sequence[Curve]) -> Figure:
    depths = [settings["depth"] for settings, _ in curves]

    def of(key: str) -> list[float]:
        return [values[key] for _, values in curves]

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(
            depths, of("alpha_by_k"), color=COLOURS[1], dashes=DASHES[1], marker="s", label="0.9 of LayerNorm's $K_L$"
        )
        left.plot(depths, of("alpha_by_j"), color=COLOURS[0], marker="o", label="LayerNorm's $J$")
        right.plot(
            depths,
            of("log_apjn_by_k"),
            color=COLOURS[1],
            dashes=DASHES[1],
            marker="s",
            label="0.9 of LayerNorm's $K_L$",
        )
        right.plot(depths, of("log_apjn_of_layer_norm"), color=COLOURS[0], marker="o", label="LayerNorm's $J$")
        left.set(xscale="log", yscale="log", xlabel="depth $L$", ylabel=r"matched $\alpha$ of Derf")
        right.set(xscale="log", xlabel="depth $L$", ylabel=r"$\log\,J(0 \to L)$", ylim=(0, None))
        left.legend()
    return figure


# --- susceptibility: chi of the last layer over weights and biases, with a skip of mu, with and without LayerNorm ------

SKIPS = (0.0, 0.5, 0.9, 1.0)
SKIP_DEPTH = 50
SKIP_SIGMA_W = np.linspace(0.4, 2.4, 61)
SKIP_SIGMA_B = np.linspace(0.0, 1.4, 43)
SUSCEPTIBILITY = [{"function": "erf", "skip": mu, "layer_norm": ln} for ln in (False, True) for mu in SKIPS]


def susceptibility_curve(settings: Settings, seed: int) -> Values:
    """``log chi`` as ``(sigma_b, sigma_w)``."""
    phi, skip = get_function(settings["function"]), settings["skip"]
    if settings["layer_norm"]:
        rows = [[layer_norm_susceptibility(phi, w**2, b**2, skip) for w in SKIP_SIGMA_W] for b in SKIP_SIGMA_B]
        return {"log_chi": np.log(rows).tolist()}
    weight, bias = np.meshgrid(SKIP_SIGMA_W**2, SKIP_SIGMA_B**2)
    last = amplification_map(phi, SKIP_DEPTH, weight_variance=weight, bias_variance=bias, skip=skip, threads=1)[2]
    return {"log_chi": last.tolist()}


def draw_susceptibility(curves: Sequence[Curve]) -> Figure:
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9.4, 4.4), layout="constrained")
        panels = figure.subplots(2, len(SKIPS), sharex=True, sharey=True)
        for settings, values in curves:
            axes = panels[int(settings["layer_norm"]), SKIPS.index(settings["skip"])]
            log_chi = np.array(values["log_chi"])
            image = axes.pcolormesh(
                SKIP_SIGMA_W, SKIP_SIGMA_B, log_chi, cmap="PuOr_r", vmin=-1, vmax=1, shading="nearest", rasterized=True
            )
            if np.ptp(np.sign(log_chi.round(9))) == 2:
                axes.contour(SKIP_SIGMA_W, SKIP_SIGMA_B, log_chi, levels=[0.0], colors="black", linewidths=1.6)
            before = "LayerNorm, " if settings["layer_norm"] else ""
            axes.set_title(rf"{before}$\mu = {settings['skip']:g}$", fontsize=10)
        for axes in panels[-1]:
            axes.set_xlabel(r"$\sigma_w$")
        for axes in panels[:, 0]:
            axes.set_ylabel(r"$\sigma_b$")
        figure.colorbar(image, ax=panels, label=r"$\log\,\chi^*$", extend="both")
    return figure


# --- powers: of LayerNorm and of Derf over the strengths of attention and MLP ------------------------------------------

STRENGTHS = np.linspace(0.5, 8.0, 16)
POWER_DEPTH, POWER_TOKENS = 100, 197
POWERS = [{"attention": float(strength)} for strength in STRENGTHS]


def powers_curve(settings: Settings, seed: int) -> Values:
    """Over the MLP's deviation, at one of attention: ``zeta``, its local value at finite depth and tokens, ``1 / lambda``."""
    s = settings["attention"] ** 2
    near = [round(POWER_DEPTH * factor) for factor in (0.9, 1.1)]
    local = []
    for m in STRENGTHS**2:
        attention = Attention(output=Linear(s), scores="uniform")
        block = transformer(LayerNorm(epsilon=0.0), attention, MLP(Pointwise("relu"), down=Linear(m)), 1)
        log_apjn = amplification(BlockStep(block, POWER_TOKENS, 0.2), near)
        local.append(float(np.diff(log_apjn)[0] / math.log(near[1] / near[0])))
    return {
        "zeta": [layer_norm_exponent_with_attention(s, float(m)) for m in STRENGTHS**2],
        "local": local,
        "rate": [1 / stretched_scale(s, float(m)) for m in STRENGTHS**2],
    }


def draw_powers(curves: Sequence[Curve]) -> Figure:
    titles = {
        "zeta": (r"$\zeta$, $T \to \infty$", None),
        "local": (rf"local exponent, $T = {POWER_TOKENS}$, $L = {POWER_DEPTH}$", None),
        "rate": (r"$1/\lambda$ of Derf", LogNorm()),
    }
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(9.4, 3.0), layout="constrained")
        for axes, (key, (title, norm)) in zip(figure.subplots(1, 3, sharey=True), titles.items(), strict=True):
            table = np.array([values[key] for _, values in curves])
            limits = {} if norm else {"vmin": 0.0, "vmax": 1.0}
            image = axes.pcolormesh(
                STRENGTHS, STRENGTHS, table, cmap="cividis", norm=norm, shading="nearest", rasterized=True, **limits
            )
            axes.set(xlabel=r"$\sigma_1\sigma_2$ of the MLP")
            axes.set_title(title, fontsize=10)
            figure.colorbar(image, ax=axes, extend="max" if key == "local" else "neither")
        figure.axes[0].set_ylabel(r"$\sigma_V\sigma_O$ of attention")
    return figure
