"""The report of a comparison: one HTML file that works offline, and its figures."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import xarray as xr

from criticality.arguments import checked
from criticality.reports.figures import NORM_NAMES, apjn_figure, correlation_figure, kernel_figure, save_figure
from criticality.schema import write_text
from criticality.studies.agreement import weak_agreement
from criticality.studies.compare import summary

_FIGURES = (
    (
        "log_apjn",
        apjn_figure,
        "Gradient amplification, log J(l → L), from block l to the last. Lines: mean-field theory of all tokens."
        " Points: measurement, with standard errors over weight seeds. A panel for each norm and initialization; colour, dashes and"
        " markers tell the alphas. Where a curve is level, gradients keep their size; the steeper it falls, the faster they grow on"
        " their way back."
        " In a vision transformer with LayerNorm, the class token's small variance makes the step at the input.",
    ),
    (
        "kernel",
        kernel_figure,
        "Variance q of the residual stream, mean over tokens, against the block. Lines: theory. Points: measurement, with standard"
        " errors over weight seeds. A straight line is a branch whose output has come to a constant variance.",
    ),
    (
        "correlation",
        correlation_figure,
        "Correlation of different tokens, mean over pairs, against the block. Lines: theory. Points: measurement, with standard"
        " errors over weight seeds. At 1 all tokens point the same way, and attention has nothing left to tell apart.",
    ),
)


@checked
def write_report(result: xr.Dataset, folder: str | Path) -> Path:
    """Write ``report.html`` and ``figures/*.png, *.svg`` of a comparison (``criticality.studies.compare``).

    Returns:
        The path of the page.
    """
    folder = Path(folder)
    figures = []
    for name, draw, caption in _FIGURES:
        png, svg = save_figure(draw(result), folder / "figures" / name)
        figures.append({"name": name, "caption": caption, "source": _data_uri(svg), "png": png.name, "svg": svg.name})
    template = files("criticality.reports").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(template).render(**_content(result), figures=figures)
    return write_text(page, folder / "report.html")


def _content(result: xr.Dataset) -> dict[str, Any]:
    record = summary(result)
    verdicts = [case["verdict"] for case in record["cases"]]
    blocks = result.block.values.astype(int).tolist()
    for case in record["cases"]:
        case["name"] = NORM_NAMES.get(case["norm"], case["norm"])
        case["profile"] = list(
            zip(
                blocks,
                case["log_apjn_predicted"],
                case["log_apjn_measured"],
                case["log_apjn_se"],
                strict=True,
            )
        )
    return {
        "record": record,
        "agreeing": verdicts.count("agrees"),
        "total": len(verdicts),
        "depth": blocks[-1],
        "weak": weak_agreement(record),
    }


def _data_uri(path: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(path.read_bytes()).decode()
