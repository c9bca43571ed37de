"""Figures and the page of the claims, from their stored outcomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from criticality.reports.figures import COLOURS, DASHES, MARKERS, STYLE

Data = Mapping[str, Any]


def claim_figure(key: str, data: Data) -> Figure | None:
    """The figure of one claim, ``None`` where there is nothing to draw."""
    if key not in _DRAW or not data:
        return None
    draw, columns = _DRAW[key]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns + 0.4, 3.2), layout="constrained")
        draw(figure.subplots(1, columns, squeeze=False)[0], data)
    return figure


def claims_page(records: Sequence[Mapping[str, Any]], figures: str, made_by: str) -> str:
    """Markdown: one section for each claim, its figure in the folder ``figures``."""
    lines = [
        "# The plan's claims, tested",
        "",
        f"Made by `criticality claims` ({made_by}); do not edit. Each claim of the article's plan is decided by one computation"
        " that could have gone the other way: tests feed it functions that break the claim and see the verdict change.",
        "",
        "| Claim | Verdict |",
        "|---|---|",
    ]
    lines += [
        f"| [{record['statement']}](#{_anchor(record['statement'])}) | **{record['verdict']}** |" for record in records
    ]
    for record in records:
        lines += [
            "",
            f"## {record['statement']}",
            "",
            f"**Verdict: {record['verdict']}.**",
            "",
            f"*Computed:* {record['computed']}",
            "",
            f"*Found:* {record['found']}",
        ]
        if claim_figure(record["key"], record["data"]) is not None:
            lines += ["", f"![{record['statement']}]({figures}/{record['key']}.png)"]
    return "\n".join(lines) + "\n"


def _anchor(heading: str) -> str:
    """As GitHub and MyST name a heading: lower case, punctuation left out, spaces as hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _line(axes: Axes, x: Any, y: Any, style: int, label: str) -> None:
    axes.plot(x, y, color=COLOURS[style], dashes=DASHES[style], lw=1.6, label=label)


def _width_axis(axes: Axes, widths: Any) -> None:
    axes.set_xscale("log")
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("width $n$")


def _points(axes: Axes, x: Any, y: Any, error: Any, style: int, label: str) -> None:
    axes.errorbar(
        x, y, yerr=error, fmt=MARKERS[style], color=COLOURS[style], ms=5, mfc="white", mew=1.2, capsize=2, label=label
    )


def _orthogonality(axes: Sequence[Axes], data: Data) -> None:
    width = np.array(data["width"], dtype=float)
    _line(axes[0], width, width**-0.5, 0, r"$1/\sqrt{n}$")
    _points(axes[0], width, data["cosine"], data["cosine_se"], 1, "cosine of branch and stream")
    _points(axes[0], width, data["pythagoras"], None, 2, r"error of $|x|^2 + |b|^2$")
    axes[0].set(yscale="log", ylabel="root mean square")
    _width_axis(axes[0], width)
    axes[0].legend()


def _finite_width(axes: Sequence[Axes], data: Data) -> None:
    order = np.argsort(data["ratio"], kind="stable")
    ratio = np.array(data["ratio"])[order]
    _line(axes[0], ratio, np.array(data["expected"])[order], 0, "expansion in $1/n$")
    _points(axes[0], data["ratio"], data["measured"], data["measured_se"], 1, "random networks")
    axes[0].set(xlabel="$L / n$", ylabel=r"Var $\log\,J(0 \to L)$, one probe")
    axes[0].set_ylim(bottom=0)
    axes[0].legend()


def _duality(axes: Sequence[Axes], data: Data) -> None:
    width = np.array(data["width"], dtype=float)
    scatter = np.array(data["scatter"])
    _line(axes[0], width, scatter[0] * (width / width[0]) ** -0.5, 0, r"$\propto 1/\sqrt{n}$")
    _points(axes[0], width, scatter, None, 1, "random networks")
    axes[0].set(yscale="log", ylabel=r"$|\log\chi_{\mathrm{forward}} - \log\chi_{\mathrm{backward}}|$, rms")
    _width_axis(axes[0], width)
    axes[0].legend()


def _classes(axes: Sequence[Axes], data: Data) -> None:
    for style, (name, curve) in enumerate(data["curves"].items()):
        _line(axes[0], data["depth"], curve, style, name)
    axes[0].set(xscale="log", yscale="log", xlabel="depth $L$", ylabel=r"$\log\,J(0 \to L)$")
    axes[0].legend()


_KINDS = ((True, True), (True, False), (False, True), (False, False))


def _boundedness(axes: Sequence[Axes], data: Data) -> None:
    rows = sorted(data["rows"], key=lambda row: -row[6])
    heights = {row[0]: number for number, row in enumerate(rows)}
    for style, kind in enumerate(_KINDS):
        chosen = [row for row in rows if (row[1], row[2]) == kind]
        label = f"{'bounded' if kind[0] else 'unbounded'}, {'monotone' if kind[1] else 'not monotone'}"
        axes[0].plot(
            [row[6] for row in chosen],
            [heights[row[0]] for row in chosen],
            ls="",
            marker=MARKERS[style],
            color=COLOURS[style],
            mfc="white",
            label=label,
        )
    axes[0].set_yticks(range(len(rows)), [f"{row[0]} ({row[3]})" for row in rows], fontsize=6)
    axes[0].set(xscale="log", xlabel=r"$\log\,J(0 \to 1000)$ at $\alpha = 1$")
    axes[0].legend(fontsize=6.5)
    _line(axes[1], data["alpha"], data["crossing"], 0, r"same $\alpha$")
    _line(axes[1], data["alpha"], data["crossing_same_slope"], 1, "same slope at 0")
    axes[1].set(xscale="log", yscale="log", xlabel=r"$\alpha$ of tanh", ylabel="depth from which $p = 2/3$ wins")
    axes[1].set_xticks(data["alpha"], [f"{alpha:g}" for alpha in data["alpha"]])
    axes[1].xaxis.set_minor_formatter(NullFormatter())
    axes[1].legend()


def _alpha_class(axes: Sequence[Axes], data: Data) -> None:
    for style, (depth, exponents) in enumerate(zip(data["depths"], data["exponent"], strict=True)):
        _line(axes[0], data["alpha"], exponents, style, f"$L = {depth}$")
    for level, name in ((1.0, "exponential"), (0.5, "stretched")):
        axes[0].axhline(level, color="#888888", lw=0.8)
        axes[0].text(data["alpha"][-1], level + 0.012, name, ha="right", fontsize=7.5, color="#555555")
    axes[0].set(xscale="log", xlabel=r"$\alpha$", ylabel=r"$d \log \log J \,/\, d \log L$")
    axes[0].legend(loc="center left")


def _alpha_amplifies(axes: Sequence[Axes], data: Data) -> None:
    for style, (depth, values) in enumerate(zip(data["depths"], data["log_apjn"], strict=True)):
        _line(axes[0], data["alpha"], values, style, f"$L = {depth}$")
    axes[0].set(xscale="log", yscale="log", xlabel=r"$\alpha$", ylabel=r"$\log\,J(0 \to L)$")
    axes[0].legend()


def _small_alpha(axes: Sequence[Axes], data: Data) -> None:
    largest = max(data["effective_depth"])
    _line(axes[0], data["alpha"], data["share"], 0, "branch share of variance")
    _line(axes[0], data["alpha"], np.array(data["effective_depth"]) / largest, 1, f"effective depth / {largest:.1f}")
    _line(axes[0], data["alpha"], data["departure"], 2, "departure from linear")
    axes[0].axvline(data["matched"], color="#888888", lw=1)
    axes[0].set(xscale="log", xlabel=r"$\alpha$", ylabel="what is left at initialization")
    axes[0].legend(fontsize=7.5)
    _line(axes[1], data["alpha"], data["log_apjn"], 0, "DyT")
    axes[1].axhline(data["target"], color=COLOURS[1], lw=1.2, label="LayerNorm")
    axes[1].axvline(data["matched"], color="#888888", lw=1)
    axes[1].set(xscale="log", yscale="log", xlabel=r"$\alpha$", ylabel=r"$\log\,J(0 \to L)$")
    axes[1].legend()


def _vit(axes: Sequence[Axes], data: Data) -> None:
    for panel, key, title in zip(
        axes, ("predicted", "without_attention"), ("theory", "theory without attention"), strict=True
    ):
        for style, (name, profile) in enumerate(data["profiles"].items()):
            block = np.arange(len(profile["measured"]))
            _line(panel, block, profile[key], style, name)
            _points(panel, block, profile["measured"], profile["measured_se"], style, "")
        panel.set(xlabel="block $l$", ylabel=r"$\log\,J(l \to L)$")
        panel.set_title(title, fontsize=10)
    axes[0].legend(fontsize=7)


def _trainings(axes: Sequence[Axes], data: Data) -> None:
    """One row for each estimate, with its interval."""
    (panel,) = axes
    estimates = data["estimates"]
    for row, (name, found) in enumerate(estimates.items()):
        error = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
        style = int(name.startswith("error"))
        panel.errorbar(
            [found["value"]],
            [row],
            xerr=np.maximum(error, 0),
            fmt=MARKERS[style],
            color=COLOURS[style],
            mfc="white",
            capsize=2,
        )
    panel.axvline(0, color="black", lw=0.8)
    panel.set(xlim=(-1.05, 1.55), xlabel="Spearman's $\\rho$ of $\\log J$; error relative to the mean's")
    panel.invert_yaxis()
    panel.set_yticks(range(len(estimates)), list(estimates))


_DRAW: dict[str, tuple[Callable[[Sequence[Axes], Data], None], int]] = {
    "orthogonality": (_orthogonality, 1),
    "finite-width": (_finite_width, 1),
    "duality": (_duality, 1),
    "classes": (_classes, 1),
    "boundedness": (_boundedness, 2),
    "alpha-class": (_alpha_class, 1),
    "alpha-amplifies": (_alpha_amplifies, 1),
    "small-alpha": (_small_alpha, 2),
    "training-stability": (_trainings, 1),
    "training-quality": (_trainings, 1),
    "vit": (_vit, 2),
}
