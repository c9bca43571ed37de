"""Vision transformers whose weights have stated variances, and inputs of equivalent tokens, for figures at initialization."""

from __future__ import annotations

import math

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, Linear, Network, make_norm, transformer

SIGMA = 0.64
"""Weight deviation times the root of the width, of ViT-L/16 (width 1024, deviation 0.02); twice that for an MLP's second weight."""


def blocks(depth: int, width: int, seed: int, sigma: float = SIGMA, head_width: int = 64) -> nn.Sequential:
    """timm's blocks with ReLU and LayerNorm, weights as ``redrawn`` draws them."""
    heads = width // head_width
    with torch.device("meta"):
        layers = [Block(width, heads, qkv_bias=True, act_layer=nn.ReLU) for _ in range(depth)]
    model = nn.Sequential(*layers).to_empty(device="cpu").requires_grad_(False).eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    redrawn(model, width, sigma, seed)
    return model


@torch.no_grad()
def redrawn(model: nn.Module, width: int, sigma: float, seed: int) -> None:
    """Makes all weights normal of variance ``sigma^2 / width``, and all biases 0."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=sigma / math.sqrt(width), generator=generator)
            module.bias.zero_()


def network(norm: str, alpha: float | None, depth: int, sigma: float = SIGMA) -> Network:
    """What ``blocks`` is in theory, with LayerNorms or what takes their place."""
    side = Linear(sigma**2)
    mlp = MLP(Pointwise("relu"), side, Linear((2 * sigma) ** 2))
    return transformer(make_norm(norm, alpha), Attention(side, side, side, side), mlp, depth)


def equivalent_tokens(tokens: int, width: int, correlation: float, seed: int = 0) -> Tensor:
    """One sample ``(1, tokens, width)`` of variance 1 whose tokens have the same correlation exactly, turned at random."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(width, tokens, generator=generator, dtype=torch.float64))
    gram = (1 - correlation) * torch.eye(tokens, dtype=torch.float64) + correlation
    return (math.sqrt(width) * torch.linalg.cholesky(gram) @ basis.T).float()[None]
