"""Figures and pages of results, and the style they share; the numbers are made elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from criticality.lazy import lazy_names

if TYPE_CHECKING:
    from criticality.reports.figures import (
        COLOURS,
        DASHES,
        MARKERS,
        NORM_NAMES,
        STYLE,
        apjn_figure,
        correlation_figure,
        heat_map,
        kernel_figure,
        save_figure,
    )
    from criticality.reports.page import write_report

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "figures": (
            "COLOURS",
            "DASHES",
            "MARKERS",
            "NORM_NAMES",
            "STYLE",
            "apjn_figure",
            "correlation_figure",
            "heat_map",
            "kernel_figure",
            "save_figure",
        ),
        "page": ("write_report",),
    },
)

__all__ = [
    "COLOURS",
    "DASHES",
    "MARKERS",
    "NORM_NAMES",
    "STYLE",
    "apjn_figure",
    "correlation_figure",
    "heat_map",
    "kernel_figure",
    "save_figure",
    "write_report",
]
