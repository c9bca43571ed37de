"""Study C: the source's trainings at our scale, each a table of accuracy over (norm, alpha) and one setting of the training.

The source reads them as effects of amplification at initialization. In a column all is trained alike, so that the reading is asked
there: of two networks whose accuracies differ by more than two standard errors, does the one of smaller log J end higher?
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
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

SEEDS = 3

STUDIES = ("vit_warm_up", "vit_gain", "vit_depth", "vit_rates", "vit_small")
"""Of the plan; a cell of any of them is where it belongs in every picture."""

_USUAL = {"warm_up": 0.0, "mlp_gain": 1.0, "steps": 1500.0}
"""What a study means that does not name them."""


@dataclass(frozen=True)
class Asked:
    """What a picture shows.

    Attributes:
        title: what varies along the columns, and what does not.
        axis: parameter of the columns, at ``columns``.
        alphas: of DyT's rows; LayerNorm's is the first.
        held: parameters that are the same in all cells.
    """

    title: str
    axis: str
    columns: tuple[float, ...]
    alphas: tuple[float, ...]
    held: Mapping[str, float]


_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
_WARM = {"learning_rate": 1e-3, "warm_up": 150}
_STEADY = {"warm_up": 0, "mlp_gain": 1, "steps": 1500}
PICTURES = (
    Asked("rate, no warm-up, 12 blocks", "learning_rate", _RATES, (0.5, 1.0), {**_STEADY, "depth": 12}),
    Asked(
        "steps of warm-up, rate 3e-3",
        "warm_up",
        (0, 50, 150, 450),
        (0.3, 0.5, 0.7, 1.0),
        {"learning_rate": 3e-3, "mlp_gain": 1, "steps": 1500, "depth": 12},
    ),
    Asked("blocks, rate 1e-3", "depth", (12, 18, 24), (0.4, 0.6, 0.8), {**_WARM, "mlp_gain": 1, "steps": 1500}),
    Asked(
        "factor of the MLPs' weights, rate 1e-3",
        "mlp_gain",
        (1.0, 1.8, 2.6, 3.4, 4.2),
        (0.4, 0.6, 0.8),
        {**_WARM, "depth": 12, "steps": 1500},
    ),
    Asked(
        "rate, twice the steps",
        "learning_rate",
        (1e-3,),
        (0.05, 0.1, 0.2, 0.3, 0.5),
        {"warm_up": 300, "mlp_gain": 1, "depth": 12, "steps": 3000},
    ),
)


@dataclass(frozen=True)
class Picture:
    """Accuracy over norms (rows) and one setting of the training (columns).

    Attributes:
        asked: what is shown.
        accuracy: on test images, ``(rows, columns, seeds)``; nan where it is not trained yet.
        log_apjn: ``log J(0 -> L)`` at initialization, ``(rows, columns)``.
    """

    asked: Asked
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
        return ["LayerNorm", *(f"DyT {alpha:g}" for alpha in self.asked.alphas)]

    def pairs(self, counts: Callable[[bool, bool], bool]) -> tuple[int, int]:
        """In how many pairs of a column whose accuracies differ by more than two standard errors the smaller ``log J`` ends higher,
        and how many such pairs there are.

        Args:
            counts: of the two rows, whether each is LayerNorm: if the pair is asked for.
        """
        mean, error = self.mean, self.accuracy.std(-1, ddof=1) / math.sqrt(self.accuracy.shape[-1])
        found = []
        for column in range(mean.shape[1]):
            for a, b in combinations(range(mean.shape[0]), 2):
                apart = mean[a, column] - mean[b, column]
                if counts(a == 0, b == 0) and abs(apart) > 2 * math.hypot(error[a, column], error[b, column]):
                    found.append(apart * (self.log_apjn[a, column] - self.log_apjn[b, column]) < 0)
        return sum(found), len(found)

    def best_alphas(self) -> list[tuple[float, float]]:
        """Column and the DyT alpha that ends highest in it, where all of a column is trained."""
        best, whole = np.argmax(self.mean[1:], axis=0), np.isfinite(self.mean).all(0)
        return [
            (value, self.asked.alphas[best[column]]) for column, value in enumerate(self.asked.columns) if whole[column]
        ]


def read_picture(studies: Iterable[xr.Dataset], asked: Asked) -> Picture:
    """What cells of these studies there are of a picture."""
    shape = 1 + len(asked.alphas), len(asked.columns)
    found = Picture(asked, np.full((*shape, SEEDS), np.nan), np.full(shape, np.nan))
    for data in studies:
        for cell in np.flatnonzero(data.status.values == "done"):
            known = {name: float(data[name].values[cell]) for name in (*asked.held, asked.axis) if name in data.coords}
            settings = {**_USUAL, **known}
            if settings[asked.axis] not in asked.columns or any(settings[n] != v for n, v in asked.held.items()):
                continue
            column = asked.columns.index(settings[asked.axis])
            if data.norm.values[cell] == "ln":
                row = 0
            elif float(data.alpha.values[cell]) in asked.alphas:
                row = 1 + asked.alphas.index(float(data.alpha.values[cell]))
            else:
                continue
            found.accuracy[row, column] = data.test_accuracy.values[cell]
            found.log_apjn[row, column] = data.log_apjn.values[cell]
    return found


def kept_pictures(folder: Path = DATA) -> list[Picture]:
    """Those of which something is packed."""
    packs = [folder / f"{name}.zarr.zip" for name in STUDIES]
    studies = [packed_dataset(pack) for pack in packs if pack.exists()]
    return [picture for asked in PICTURES if (picture := read_picture(studies, asked)).trained]


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
            f"| {picture.asked.title} | {picture.trained} of {picture.mean.size} | {among[0]} of {among[1]} pairs |"
            f" {between[0]} of {between[1]} pairs | {best or 'no column is whole'} |"
        )
    return lines


def table_of_accuracies(pictures: list[Picture]) -> list[str]:
    """A line for each norm of each picture, its columns in their order."""
    lines = ["| ViT, constant rates | Norm | log J at initialization | accuracy, per cent |", "|---|---|---|---|"]
    for picture in pictures:
        varied, _, held = picture.asked.title.partition(",")
        first = f"{varied} {', '.join(f'{value:g}' for value in picture.asked.columns)};{held}"
        for label, log_apjn, mean in zip(picture.labels, picture.log_apjn, 100 * picture.mean, strict=True):
            cells = [", ".join(f"{one:.1f}" for one in row) for row in (log_apjn, mean)]
            lines.append(f"| {first} | {label.replace(' ', ', α = ')} | " + " | ".join(cells) + " |")
            first = ""
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
            axis.set_xticks(range(len(picture.asked.columns)), [f"{value:g}" for value in picture.asked.columns])
            axis.set_yticks(range(len(picture.labels)), picture.labels)
            axis.set_title(picture.asked.title, fontsize=9)
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
