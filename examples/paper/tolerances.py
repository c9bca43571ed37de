"""How far ``log J`` of finite width is from the theory, in units of depth over width, beside what ``compare`` tolerates."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import nn

from criticality import SymmetricKernel, measure, propagate, replace_norms
from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, Linear, Network, make_norm, transformer
from vision import blocks, equivalent_tokens

DEPTH, TOKENS, CORRELATION, SIGMA, HEAD_WIDTH = 24, 32, 0.4, 0.8, 16
SEEDS = 96
PARTS = {64: 2, 128: 1, 256: 1}
"""Of as many seeds each, by width."""
NORMS: dict[str, float | None] = {"ln": None, "dyt": 1.0}
SCORES = (0.0, 1.0)
"""Variance of a score between tokens of unit variance."""

SETTINGS: list[dict[str, Any]] = [
    {"norm": norm, "scores": scores, "width": width, "part": part}
    for norm, scores in product(NORMS, SCORES)
    for width, part in [(None, 0), *((width, part) for width, parts in PARTS.items() for part in range(parts))]
]


def curve(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """``log J(0 -> 24)`` of each seed, or in theory."""
    norm, scores, width = settings["norm"], settings["scores"], settings["width"]
    if width is None:
        start = SymmetricKernel.of(1.0, CORRELATION, TOKENS)
        return {"log_apjn": [float(propagate(network(norm, scores), start).log_apjn[0])]}
    first = seed + SEEDS * settings["part"]
    found = []
    for number in range(first, first + SEEDS):
        x = equivalent_tokens(TOKENS, width, CORRELATION, number)
        found.append(round(float(measure(model(norm, scores, width, number), x, seed=number).log_apjn[0]), 6))
    return {"log_apjn": found}


def network(norm: str, scores: float) -> Network:
    """What ``model`` is in theory."""
    side, asking = Linear(SIGMA**2), Linear(scores**0.5)
    mlp = MLP(Pointwise("relu"), side, Linear((2 * SIGMA) ** 2))
    return transformer(make_norm(norm, NORMS[norm]), Attention(asking, asking, side, side), mlp, DEPTH)


@torch.no_grad()
def model(norm: str, scores: float, width: int, seed: int) -> nn.Sequential:
    """Blocks whose queries and keys are scaled for scores of this variance."""
    made = blocks(DEPTH, width, seed, SIGMA, HEAD_WIDTH)
    for block in made:
        block.get_parameter("attn.qkv.weight")[: 2 * width] *= scores**0.25 / SIGMA
    if norm != "ln":
        replace_norms(made, norm, NORMS[norm])
    return made
