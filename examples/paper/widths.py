"""Where measurements at finite width leave the theory: heads, of which each draws its own scores, and channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from criticality import SymmetricKernel, measure, propagate
from criticality.models import ViTSpec
from vision import blocks, equivalent_tokens, network

PART = 24
"""Seeds of one curve."""

# --- LayerNorm's ViT of the claim: two photographs, a class token -------------------------------------------------------

SIZES = {(96, 3): 4, (192, 3): 4, (192, 12): 3, (384, 12): 1}
"""Parts of each width and number of heads."""
DRAWS = {4: 48, 8: 48, 32: 16, 128: 8, 512: 4}
"""Runs of the theory with so many score matrices a layer."""
PHOTOGRAPHS: list[dict[str, Any]] = [
    *({"draws": draws} for draws in DRAWS),
    *({"width": w, "heads": h, "part": part} for (w, h), parts in SIZES.items() for part in range(parts)),
]


def _claimed(width: int, heads: int) -> ViTSpec:
    name = "vit_base_patch16_224"
    return ViTSpec(name, norm="ln", depth=12, width=width, heads=heads, image_size=96, init="fan-in")


def photographs_curve(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """``log J(0 -> 12)`` of each seed; in theory of each draw of the scores."""
    if "draws" in settings:
        described, inputs = _claimed(192, 3).read(seed)
        runs = range(seed, seed + DRAWS[settings["draws"]])
        found = [propagate(described, inputs, samples=settings["draws"], seed=run) for run in runs]
    else:
        spec, found = _claimed(settings["width"], settings["heads"]), []
        for number in _seeds(settings, seed):
            torch.manual_seed(number)
            found.append(measure(spec.build(), spec.inputs(), probes=2, seed=number))
    return {"log_apjn": [round(float(one.log_apjn[0]), 6) for one in found]}


# --- equivalent tokens: independent gradients, and one that is common to all -------------------------------------------

DEPTH, TOKENS, CORRELATION, HEAD_WIDTH = 24, 64, 0.4, 32
COHERENCE_PARTS = {96: 1, 192: 4, 384: 1}
COHERENCE: list[dict[str, Any]] = [
    *({"width": width, "part": part} for width, parts in COHERENCE_PARTS.items() for part in range(parts)),
    {"width": None},
]


def coherence_curve(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """``log J(0 -> 24)`` from independent and from common gradients, of each seed or in theory."""
    found: dict[str, list[float]] = {"normal": [], "pooled": []}
    if settings["width"] is None:
        for probe, values in found.items():
            start = SymmetricKernel.of(1.0, CORRELATION, TOKENS)
            values.append(float(propagate(network("ln", None, DEPTH), start, probe=probe).log_apjn[0]))
        return found
    for number in _seeds(settings, seed):
        model = blocks(DEPTH, settings["width"], number, head_width=HEAD_WIDTH)
        x = equivalent_tokens(TOKENS, settings["width"], CORRELATION, number)
        for probe, values in found.items():
            values.append(round(float(measure(model, x, probe=probe, seed=number).log_apjn[0]), 6))
    return found


SETTINGS: list[dict[str, Any]] = [*PHOTOGRAPHS, *COHERENCE]


def curve(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Of either part."""
    return (photographs_curve if "draws" in settings or "heads" in settings else coherence_curve)(settings, seed)


def _seeds(settings: Mapping[str, Any], seed: int) -> range:
    first = seed + PART * settings["part"]
    return range(first, first + PART)
