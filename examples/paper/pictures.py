"""Study C: the source's trainings at our scale, each a table of accuracy over (norm, alpha) and one setting of the training.

The source reads them as effects of amplification at initialization. In a column all is trained alike, so that the reading is asked
there: of two networks whose accuracies differ by more than two standard errors, does the one of smaller log J end higher?
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from criticality.reports import STYLE, save_figure
from criticality.sweeps import packed_dataset
from kept import DATA

STUDIES = {
    "vit_rates": ("learning_rate", "rate, no warm-up"),
    "vit_warm_up": ("warm_up", "steps of warm-up, rate 3e-3"),
    "vit_depth": ("depth", "blocks, rate 1e-3"),
    "vit_gain": ("mlp_gain", "factor of the MLPs' weights, rate 1e-3"),
    "vit_small": ("learning_rate", "rate, twice the steps"),
}
"""Of the plan: what varies along the columns, and how it is called."""


@dataclass(frozen=True)
class Picture:
    """Accuracy over norms (rows) and one setting of the training (columns).

    Attributes:
        study: name.
        axis: parameter of the columns.
        depth: of the networks in blocks; ``None`` where it is the axis.
        rows: ``("ln", nan)``, ``("dyt", alpha)``, in the order of the study.
        columns: values of the axis, ascending.
        accuracy: on test images, ``(rows, columns, seeds)``; nan where it is not trained yet.
        log_apjn: ``log J(0 -> L)`` at initialization, ``(rows, columns)``.
    """

    study: str
    axis: str
    depth: int | None
    rows: list[tuple[str, float]]
    columns: np.ndarray
    accuracy: np.ndarray
    log_apjn: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over seeds, ``(rows, columns)``."""
        return np.asarray(self.accuracy.mean(-1))

    @property
    def trained(self) -> int:
        """Cells that are there."""
        return int(np.isfinite(self.mean).sum())

    @property
    def labels(self) -> list[str]:
        """Of the rows."""
        return ["LayerNorm" if norm == "ln" else f"DyT {alpha:g}" for norm, alpha in self.rows]

    def pairs(self, asked: Callable[[bool, bool], bool]) -> tuple[int, int]:
        """In how many pairs of a column whose accuracies differ by more than two standard errors the smaller ``log J`` ends higher,
        and how many such pairs there are.

        Args:
            asked: of the two rows, whether each is LayerNorm: if the pair counts.
        """
        mean, error = self.mean, self.accuracy.std(-1, ddof=1) / math.sqrt(self.accuracy.shape[-1])
        norms = [norm == "ln" for norm, _ in self.rows]
        found = []
        for column in range(len(self.columns)):
            for a, b in combinations(range(len(self.rows)), 2):
                apart = mean[a, column] - mean[b, column]
                if asked(norms[a], norms[b]) and abs(apart) > 2 * math.hypot(error[a, column], error[b, column]):
                    found.append(apart * (self.log_apjn[a, column] - self.log_apjn[b, column]) < 0)
        return sum(found), len(found)

    def best_alphas(self) -> list[tuple[float, float]]:
        """Column and the DyT alpha that ends highest in it, where all of a column is trained."""
        pointwise = [row for row, (norm, _) in enumerate(self.rows) if norm != "ln"]
        whole = np.isfinite(self.mean).all(0)
        return [
            (float(value), self.rows[max(pointwise, key=lambda row: self.mean[row, column])][1])
            for column, value in enumerate(self.columns)
            if whole[column]
        ]


def read_pictures(data: xr.Dataset, study: str) -> list[Picture]:
    """The pictures of one study: one, or one for each depth where rates are varied at several.

    Raises:
        ValueError: a study that is none of ``STUDIES``.
    """
    if study not in STUDIES:
        raise ValueError(f"study={study!r} must be one of {', '.join(map(repr, STUDIES))}")
    axis, _ = STUDIES[study]
    columns = np.unique(data[axis].values)
    alphas = data.alpha.values if "alpha" in data else np.full(data.sizes["cell"], math.nan)
    keys = [
        (str(norm), -1.0 if math.isnan(alpha) else float(alpha))
        for norm, alpha in zip(data.norm.values, alphas, strict=True)
    ]
    rows = list(dict.fromkeys(keys))
    found = []
    for depth in [None] if axis == "depth" else [int(value) for value in np.unique(data.depth.values)]:
        shape = len(rows), len(columns)
        accuracy, log_apjn = np.full((*shape, data.test_accuracy.shape[1]), np.nan), np.full(shape, np.nan)
        for cell in np.flatnonzero(data.status.values == "done"):
            if depth is None or data.depth.values[cell] == depth:
                at = rows.index(keys[cell]), int(np.searchsorted(columns, data[axis].values[cell]))
                accuracy[at], log_apjn[at] = data.test_accuracy.values[cell], data.log_apjn.values[cell]
        found.append(
            Picture(study, axis, depth, [(n, math.nan if a < 0 else a) for n, a in rows], columns, accuracy, log_apjn)
        )
    return found


def kept_pictures(folder: Path = DATA) -> list[Picture]:
    """Those of which something is packed."""
    packs = {name: folder / f"{name}.zarr.zip" for name in STUDIES}
    read = [read_pictures(packed_dataset(pack), name) for name, pack in packs.items() if pack.exists()]
    return [picture for pictures in read for picture in pictures if picture.trained]


def title_of(picture: Picture) -> str:
    """What is varied, and at which depth."""
    _, words = STUDIES[picture.study]
    return words if picture.depth is None else f"{words}, {picture.depth} blocks"


def table_of_readings(pictures: list[Picture]) -> list[str]:
    """For each picture, whether the smaller log J ends higher among DyT's alphas, and between LayerNorm and DyT."""
    lines = [
        "| Varied | cells | smaller log J ends higher: DyT | LayerNorm and DyT | best α by column |",
        "|---|---|---|---|---|",
    ]
    for picture in pictures:
        among, between = picture.pairs(lambda a, b: not (a or b)), picture.pairs(lambda a, b: a != b)
        best = ", ".join(f"{value:g}: {alpha:g}" for value, alpha in picture.best_alphas())
        lines.append(
            f"| {title_of(picture)} | {picture.trained} of {picture.mean.size} | {among[0]} of {among[1]} pairs |"
            f" {between[0]} of {between[1]} pairs | {best or 'no column is whole'} |"
        )
    return lines


def draw_pictures(pictures: list[Picture]) -> Figure:
    """A panel for each: mean test accuracy in per cent as number and colour, log J at initialization below it."""
    with mpl.rc_context(STYLE):
        across = min(3, len(pictures))
        down = -(-len(pictures) // across)
        figure = Figure(figsize=(3.4 * across + 0.6, 2.6 * down), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, picture in zip(axes, pictures, strict=False):
            shown = axis.imshow(100 * picture.mean, cmap="viridis", vmin=10, vmax=85, aspect="auto")
            for row, column in np.argwhere(np.isfinite(picture.mean)):
                value = 100 * picture.mean[row, column]
                axis.text(
                    column,
                    row,
                    f"{value:.1f}\n{picture.log_apjn[row, column]:.1f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="white" if value < 55 else "black",
                )
            axis.set_xticks(range(len(picture.columns)), [f"{value:g}" for value in picture.columns])
            axis.set_yticks(range(len(picture.rows)), picture.labels)
            axis.set_title(title_of(picture), fontsize=9)
            axis.grid(False)
        for axis in axes[len(pictures) :]:
            axis.remove()
        figure.colorbar(shown, ax=axes[: len(pictures)].tolist(), label="test accuracy, per cent")
    return figure


def section(folder: Path) -> list[str]:
    """What studies/training.md says of them, as far as they are packed; the figure is written to ``folder``."""
    found = kept_pictures()
    if not found:
        return ["## The source's pictures", "Not begun."]
    save_figure(draw_pictures(found), folder / "pictures")[1].unlink()
    return [
        "## The source's pictures",
        "The vision transformer of the held-out task at constant rates, three seeds a cell. In a column all is trained alike."
        " Pairs of a column count where their accuracies differ by more than two standard errors over seeds.",
        "\n".join(table_of_readings(found)),
        "![Test accuracy in per cent, log J at initialization below it, over norms and one setting of the training](pictures.png)",
    ]
