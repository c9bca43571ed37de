"""Tiny networks written by hand, of every layout of a residual stream; each notes the values that the stream is made of.

``seen`` holds the points at which a stream is to be found, in order, its start included: what is measured there can be
compared with plain autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, DEPTH = 16, 4


class MLP(nn.Sequential):
    """Two layers, without or with a norm before them."""

    def __init__(self, norm: bool = False, width: int = WIDTH):
        layers = [nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)]
        super().__init__(*([nn.LayerNorm(width)] if norm else []), *layers)


class Attention(nn.Module):
    """Self-attention of two heads, or attention to ``memory``."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        k, v = self.kv(x if memory is None else memory).chunk(2, -1)
        q, k, v = (one.unflatten(-1, (2, -1)).transpose(1, 2) for one in (self.q(x), k, v))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    """Base: blocks that are applied one after the other; ``seen`` are the boundaries of blocks."""

    block: Callable[[], nn.Module]

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(type(self).block() for _ in range(DEPTH))
        self.seen: list[Tensor] = []

    def note(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        self.seen = [x]
        for block in self.blocks:
            x = self.note(block(x))
        return x


class PreNormBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.attention, self.mlp = Attention(), MLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.n1(x))
        return x + self.mlp(self.n2(x))


class PreNorm(Net):
    block = PreNormBlock


class PostNormBlock(PreNormBlock):
    def forward(self, x: Tensor) -> Tensor:
        x = self.n1(x + self.attention(x))
        return self.n2(x + self.mlp(x))


class PostNorm(Net):
    block = PostNormBlock


class SandwichBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.after, self.mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), MLP()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.after(self.mlp(self.before(x)))


class Sandwich(Net):
    block = SandwichBlock


class OutputNormBlock(SandwichBlock):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.after(self.mlp(x))


class OutputNorm(Net):
    block = OutputNormBlock


class ParallelBlock(PreNormBlock):
    """Attention and MLP of one norm, added at once, as in GPT-J."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.n1(x)
        return x + self.attention(h) + self.mlp(h)


class Parallel(Net):
    block = ParallelBlock


class PairBlock(nn.Module):
    """Takes and returns ``(hidden, residual)``; the next one adds them, as fused Mamba code does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mlp = nn.RMSNorm(WIDTH), MLP()

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        residual = hidden + residual
        return self.mlp(self.norm(residual)), residual


class Pairs(Net):
    block = PairBlock

    def forward(self, x: Tensor) -> Tensor:
        self.seen, residual = [x], None
        for block in self.blocks:
            if residual is None:
                x, residual = block.mlp(block.norm(x)), x
            else:
                x, residual = block(x, residual)
                self.note(residual)
        return self.note(x + residual)


class ListOfLists(Net):
    """No block is ever called: lists of ``[attention, mlp]``, with the skips in the loop."""

    block = staticmethod(lambda: nn.ModuleList([Attention(), MLP(norm=True)]))  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        self.seen = [x]
        for attention, mlp in self.blocks:
            x = attention(functional.layer_norm(x, (WIDTH,))) + x
            x = self.note(mlp(x) + x)
        return x


class BranchBlocks(Net):
    """Blocks return their branch only; the caller adds it."""

    block = staticmethod(lambda: MLP(norm=True))  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        self.seen = [x]
        for block in self.blocks:
            x = self.note(x + block(x))
        return x


class MixingBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = MLP(norm=True)

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        x = 0.6 * x + 0.4 * start
        return x + self.mlp(x)


class Mixing(Net):
    """Every block mixes the input back in."""

    block = MixingBlock

    def __init__(self) -> None:
        super().__init__()
        self.blocks.extend(MixingBlock() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = [start := x]
        for block in self.blocks:
            x = self.note(block(x, start))
        return x


class Detour(Net):
    """A skip around all blocks, put together with what they return; a block stands before it."""

    block = PreNormBlock

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fuse = PreNormBlock(), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = [x]
        skip = x = self.note(self.first(x))
        for block in self.blocks:
            x = self.note(block(x))
        return self.fuse(torch.cat([skip, x], -1))


class Overwritten(Net):
    """The norms' backward passes need values of the stream that it has overwritten."""

    block = SandwichBlock

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        for block in self.blocks:
            x.add_(block(x))
        return x


class Tied(Net):
    """One block, applied again and again."""

    block = PreNormBlock

    def forward(self, x: Tensor) -> Tensor:
        self.seen = [x]
        for _ in range(6):
            x = self.note(self.blocks[0](x))
        return x


def vectors(*shape: int) -> Tensor:
    """Random inputs of a shape, tokens and width by default."""
    return torch.randn(shape or (2, 5, WIDTH), generator=torch.Generator().manual_seed(3))


def build(kind: Callable[..., Any], *settings: Any) -> Any:
    """A network with weights of seed 0, all of them large enough that branches matter."""
    torch.manual_seed(0)
    net = kind(*settings).eval()
    for parameter in net.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(1.5)
    return net
