"""The one-branch residual network of the theory, ``x <- x + W norm(x) + b``, as a torch model of finite width."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from criticality.arguments import Depth, NotNegative, Positive, Seed, Size, checked
from criticality.models.normalizers import DynamicPointwise
from criticality.theory.norms import LAYER_NORMS, RMS_NORMS, make_norm


class ResidualBlock(nn.Module):
    """``x + W norm(x)``."""

    def __init__(self, width: int, norm: nn.Module, weight_deviation: float):
        super().__init__()
        self.norm = norm
        self.linear = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.linear.weight, std=weight_deviation / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.linear(self.norm(x))
        return x + branch


class ResidualNetwork(nn.Module):
    """``depth`` blocks of ``width`` channels; inputs are ``(batch, tokens, width)`` and tokens do not interact.

    Args:
        width, depth: channels and blocks.
        norm: ``ln``, ``rms``, ``none``, ``dyt``, ``derf``, any other built-in function, or a callable that makes a module.
        alpha: of a pointwise norm.
        weight_deviation: ``sigma_w``; weights are ``N(0, sigma_w^2 / width)``.

    Raises:
        ValueError: a size, norm, alpha or deviation that is not allowed.
    """

    @checked
    def __init__(
        self,
        width: Size,
        depth: Depth,
        norm: str | Callable[[], nn.Module] = "dyt",
        alpha: Positive | None = None,
        weight_deviation: NotNegative = 1.0,
    ):
        super().__init__()
        self.blocks = nn.Sequential(
            *(ResidualBlock(width, _norm(norm, alpha, width), weight_deviation) for _ in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.blocks(x)
        return result


def _norm(norm: str | Callable[[], nn.Module], alpha: float | None, width: int) -> nn.Module:
    if callable(norm):
        return norm()
    make_norm(norm, alpha)
    key = norm.lower()
    if key in LAYER_NORMS:
        return nn.LayerNorm(width, elementwise_affine=False)
    if key in RMS_NORMS:
        return nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
    if key == "none":
        return nn.Identity()
    return DynamicPointwise(width, norm, 1.0 if alpha is None else alpha, affine=False)


@checked
def gaussian_inputs(tokens: Size, width: Size, seed: Seed) -> Tensor:
    """Independent standard normal inputs, ``(1, tokens, width)``: ``q = 1``, ``p = 0`` at infinite width."""
    return torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed))
