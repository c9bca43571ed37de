"""Figures and pages of results; the numbers are made elsewhere."""

from criticality.reports.figures import apjn_figure, correlation_figure, heat_map, kernel_figure, save_figure
from criticality.reports.page import write_report

__all__ = ["apjn_figure", "correlation_figure", "heat_map", "kernel_figure", "save_figure", "write_report"]
