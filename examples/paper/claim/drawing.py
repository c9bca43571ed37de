"""Figures of claims, from their stored outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from claim.outcome import Claim
from criticality.reports import COLOURS, DASHES, MARKERS, STYLE

Data = Mapping[str, Any]


def claim_figure(claim: Claim, data: Data) -> Figure | None:
    """The figure of one claim, ``None`` where there is nothing to draw."""
    if not data:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * claim.panels + 0.4, 3.2), layout="constrained")
        claim.draw(figure.subplots(1, claim.panels, squeeze=False)[0], data)
    return figure


def line(axes: Axes, x: Any, y: Any, style: int, label: str = "") -> None:
    axes.plot(x, y, color=COLOURS[style], dashes=DASHES[style], lw=1.6, label=label)


def points(axes: Axes, x: Any, y: Any, error: Any, style: int, label: str = "") -> None:
    axes.errorbar(
        x, y, yerr=error, fmt=MARKERS[style], color=COLOURS[style], ms=5, mfc="white", mew=1.2, capsize=2, label=label
    )


def width_axis(axes: Axes, widths: Any) -> None:
    axes.set_xscale("log")
    axes.set_xticks(widths, [f"{width:g}" for width in widths])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("width $n$")
