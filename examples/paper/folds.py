"""Theory on real inputs, input by input: every token's own variance, tokens taken for equivalent, and the source's recursions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from criticality import SymmetricKernel, TokenKernel, measure, propagate, replace_norms
from criticality.measurement import input_kernels, log_mean
from criticality.models import photographs
from recursions import paper, post
from vision import network, redrawn

DEPTH, WIDTH, IMAGE, SEEDS = 24, 384, 96, 2
STRENGTHS = {"0.55": 0.64 * math.sqrt(0.75), "1": 1.0}
"""Weight deviations times the root of the width: of ViT-B at its own initialization (the source's), and of unit weights."""
INPUTS = {"0.55": 24, "1": 12}
CASES: dict[str, tuple[str, float | None]] = {
    "LayerNorm": ("ln", None),
    **{f"Derf, α = {alpha:g}": ("derf", alpha) for alpha in (0.5, 1.0, 1.5)},
}
SAMPLES = {"ln": 64, "derf": 16}
SETTINGS = [{"sigma": sigma, "input": number} for sigma in STRENGTHS for number in range(INPUTS[sigma])]


def view(number: int) -> Tensor:
    """A random part of one of the two photographs, 30 to 100 per cent of its area, in half of all cases mirrored."""
    side = 3 * IMAGE
    generator = torch.Generator().manual_seed(number)
    draw = torch.rand(4, generator=generator).tolist()
    edge = round(side * math.sqrt(0.3 + 0.7 * draw[0]))
    top, left = (round(u * (side - edge)) for u in draw[1:3])
    part = torch.from_numpy(photographs(side))[number % 2, :, top : top + edge, left : left + edge]
    part = part.flip(-1) if draw[3] < 0.5 else part
    return nn.functional.interpolate(part[None], size=(IMAGE, IMAGE), mode="bilinear", antialias=True)


def built(sigma: float, seed: int) -> nn.Module:
    """timm's ViT with ReLU and its own class token, positions and patches; the weights of its blocks are drawn anew."""
    torch.manual_seed(seed)
    model = timm.create_model(
        "vit_base_patch16_224", depth=DEPTH, embed_dim=WIDTH, num_heads=WIDTH // 64, img_size=IMAGE, act_layer=nn.ReLU
    )
    redrawn(model.get_submodule("blocks"), WIDTH, sigma, seed)
    return model.requires_grad_(False).eval()


def curve(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """``log J(l -> 24)`` at every block: measured over weight seeds, and by four theories of the same input."""
    sigma, x = STRENGTHS[settings["sigma"]], view(settings["input"])
    first = seed + SEEDS * settings["input"]
    measured: dict[str, list[np.ndarray]] = {name: [] for name in CASES}
    starts = []
    for number in range(first, first + SEEDS):
        model = built(sigma, number)
        starts.append(input_kernels(model, x)[0])
        for name, (norm, alpha) in CASES.items():
            changed = None if norm == "ln" else replace_norms(model, norm, alpha)
            found = measure(model, x, probes=2, seed=number)
            measured[name].append(found.log_apjn.sel(block=range(DEPTH + 1)).values)
            if changed is not None:
                changed.undo()
    start = np.mean(starts, axis=0)
    return {name: _profiles(np.array(measured[name]), start, sigma, *CASES[name], seed) for name in CASES}


def _profiles(
    measured: np.ndarray, start: np.ndarray, sigma: float, norm: str, alpha: float | None, seed: int
) -> dict[str, Any]:
    """Of one norm; the source's recursions start from the patches alone, as the source does."""
    described, patches = network(norm, alpha, DEPTH, sigma), start[1:, 1:]
    alike = SymmetricKernel.mean_of([TokenKernel.of(patches)])
    q, p, tokens = float(alike.q), float(alike.p), alike.tokens
    s, m = sigma**4, 4 * sigma**4
    mean, error = log_mean(measured)
    found = {
        "measured": mean,
        "measured_se": error,
        "tokens": propagate(described, TokenKernel.of(start), samples=SAMPLES[norm], seed=seed).log_apjn.values[::2],
        "equivalent": propagate(described, alike).log_apjn.values[::2],
        "paper": paper(alpha, s, m, DEPTH, tokens, (q, p)),
        "post": post(alpha, s, m, DEPTH, tokens, (q, p), sigma**4),
    }
    return {name: np.round(np.asarray(values, dtype=float), 6).tolist() for name, values in found.items()}
