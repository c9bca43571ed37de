"""What theory says of the alphas of Llama models with DyT by width and depth, and what was published.

Embeddings times the root of the width and alphas of attention four times those of the other norms are the published settings,
weights of deviation 0.02 are those of the family. One number is taken from what was published: log J of its smallest model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from scipy.optimize import brentq

from criticality.models import model_spec
from criticality.reports import COLOURS, DASHES, STYLE
from criticality.theory import propagate

Settings = Mapping[str, Any]
Values = dict[str, Any]
Curve = tuple[Settings, Values]

RATIO = 4
"""Of the alpha of attention to the others, in all four models."""
LEVEL = 7.25
"""log J of the smallest model with its published alphas."""
PUBLISHED = {"7B": (4096, 32, 0.2), "13B": (5120, 40, 0.15), "34B": (8192, 48, 0.05), "70B": (8192, 80, 0.05)}
"""Width, depth and the alpha of the norms that are not before attention."""
WIDTHS, DEPTHS = (1024, 2048, 4096, 8192), (16, 32, 64)
SETTINGS: list[Settings] = [
    *(
        {"model": name, "width": width, "depth": depth, "alpha": alpha}
        for name, (width, depth, alpha) in PUBLISHED.items()
    ),
    *({"model": "", "width": width, "depth": depth, "alpha": None} for depth in DEPTHS for width in WIDTHS),
]


def curve(settings: Settings, seed: int) -> Values:
    """The alpha of the other norms at which log J is ``LEVEL``, and log J at the published one."""
    width, depth, scale = settings["width"], settings["depth"], math.sqrt(settings["width"])

    @cache
    def log_apjn(log_alpha: float) -> float:
        alpha = math.exp(log_alpha)
        spec = model_spec(
            "hf:llama",
            norm="dyt",
            alpha={"attention": RATIO * alpha, "*": alpha},
            width=width,
            depth=depth,
            embedding_scale=scale,
        )
        return float(propagate(*spec.read(seed), samples=8, seed=seed).log_apjn[0])

    near = math.log(3.7e5 / width**1.4 / depth**0.8)
    matched = brentq(lambda one: log_apjn(one) - LEVEL, near - 1, near + 1, xtol=2e-3)
    found = {"matched": math.exp(matched), "log_apjn_at_matched": log_apjn(matched)}
    published = settings["alpha"]
    return found if published is None else {**found, "log_apjn": log_apjn(math.log(published))}


def draw(curves: Sequence[Curve]) -> Figure:
    models = [(s, v) for s, v in curves if s["model"]]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for style, depth in enumerate(DEPTHS):
            line = sorted((s["width"], v["matched"]) for s, v in curves if not s["model"] and s["depth"] == depth)
            left.plot(
                *zip(*line, strict=True), color=COLOURS[style], dashes=DASHES[style], label=f"theory, {depth} blocks"
            )
        left.plot([s["width"] for s, _ in models], [s["alpha"] for s, _ in models], "kx", ms=8, label="published")
        left.set(xscale="log", yscale="log", xlabel="width", ylabel=r"$\alpha$ of norms not before attention")
        left.set_xticks(WIDTHS, map(str, WIDTHS))
        left.minorticks_off()
        left.legend()
        places = range(len(models))
        right.plot(places, [v["matched"] for _, v in models], "o", color=COLOURS[0], label="theory, level of 7B")
        first, _ = models[0]
        slope = [first["alpha"] * first["width"] / s["width"] for s, _ in models]
        right.plot(places, slope, "_", color="0.5", ms=16, label="1/width from 7B")
        right.plot(places, [s["alpha"] for s, _ in models], "kx", ms=8, label="published")
        labels = [f"{s['model']}\n{s['width']} × {s['depth']}" for s, _ in models]
        right.set_xticks(places, labels)
        right.set(yscale="log", ylabel=r"$\alpha$ of norms not before attention", xlim=(-0.5, len(models) - 0.5))
        right.set_yticks([0.05, 0.1, 0.2], ["0.05", "0.1", "0.2"])
        right.minorticks_off()
        right.legend()
    return figure
