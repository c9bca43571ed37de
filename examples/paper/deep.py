"""A ViT of 128 blocks at initialization, layer by layer, and gradients beside the APJN, as in the source's second part."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from criticality import SymmetricKernel, measure, propagate, replace_norms
from vision import blocks, equivalent_tokens, network

DEPTH, WIDTH, TOKENS, CORRELATION = 128, 512, 197, 0.4
KEPT = range(0, DEPTH + 1, 4)
SEEDS = 6
ALPHAS = [round(0.1 + 0.2 * k, 1) for k in range(10)]
CASES: list[float | None] = [None, *ALPHAS]
"""LayerNorm, and Derf."""
SETTINGS = [{"seed": seed, "alpha": alpha} for seed in (*range(SEEDS), None) for alpha in CASES]
"""A curve for each set of weights, and one, of no seed, for the theory."""


@lru_cache(maxsize=1)
def _model(seed: int) -> nn.Sequential:
    return blocks(DEPTH, WIDTH, seed)


def curve(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Variance, correlation, and log J from independent and from common gradients, with one set of weights or in theory."""
    if settings["seed"] is None:
        return _values(*_theory(settings["alpha"]))
    number = settings["seed"] + seed * len(SETTINGS)
    model, x = _model(number), equivalent_tokens(TOKENS, WIDTH, CORRELATION, number)
    changed = None if settings["alpha"] is None else replace_norms(model, "derf", settings["alpha"])
    apart, common = (
        measure(model, x, probe=probe, seed=number).sel(block=list(KEPT)) for probe in ("normal", "pooled")
    )
    if changed is not None:
        changed.undo()
    return _values(apart, common)


def _theory(alpha: float | None) -> list[xr.Dataset]:
    described = network("ln" if alpha is None else "derf", alpha, DEPTH)
    start = SymmetricKernel.of(1.0, CORRELATION, TOKENS)
    return [propagate(described, start, probe=probe).sel(block=list(KEPT)) for probe in ("normal", "pooled")]


def _values(apart: xr.Dataset, common: xr.Dataset) -> dict[str, Any]:
    found = {"q": apart.q, "correlation": apart.correlation, "log_apjn": apart.log_apjn, "log_pooled": common.log_apjn}
    return {name: np.round(values.values.astype(float), 6).tolist() for name, values in found.items()}
