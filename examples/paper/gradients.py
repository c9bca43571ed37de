"""Gradients of a real ViT beside its APJN: what each start of the backward pass sends back, by ``compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from claim.drawing import line, points
from criticality import Comparison, compare
from criticality.reports import NORM_NAMES, STYLE

STARTS = ("normal", "pooled", "class", "loss")
SETTINGS = [{"norm": norm, "probe": probe} for norm in ("ln", "derf") for probe in STARTS]
DEPTH, SEEDS = 12, 6


def curve(settings: Mapping[str, str], seed: int) -> dict[str, Any]:
    """``log J(l -> 12)`` of ViT-B's shape at width 384 and its own initialization, on two photographs."""
    asked = Comparison(
        "timm:vit_base_patch16_224",
        norms=(settings["norm"],),
        alphas=(1.0,),
        depth=DEPTH,
        width=384,
        image_size=96,
        seeds=SEEDS,
        seed=seed,
        samples=32,
        probe=settings["probe"],
    )
    with TemporaryDirectory() as folder:
        found = compare(asked, folder).isel(case=0)
    names = ("log_apjn_predicted", "log_apjn_predicted_se", "log_apjn_measured", "log_apjn_se")
    return {name: np.round(found[name].values.astype(float), 6).tolist() for name in names}


def draw(curves: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]]) -> Figure:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        for axes, norm in zip(figure.subplots(1, 2), ("ln", "derf"), strict=True):
            for style, (settings, values) in enumerate(one for one in curves if one[0]["norm"] == norm):
                blocks = np.arange(len(values["log_apjn_measured"]))
                line(axes, blocks, values["log_apjn_predicted"], style, settings["probe"])
                points(axes, blocks, values["log_apjn_measured"], values["log_apjn_se"], style)
            axes.set(xlabel="block $l$", ylabel="log of squared gradients, $l$ over 12", ylim=(0, None))
            axes.set_title(NORM_NAMES[norm] + (", α = 1" if norm == "derf" else ""), fontsize=10)
            axes.legend(title="start")
    return figure
