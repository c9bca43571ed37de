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
from torch.utils.checkpoint import checkpoint

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


class Stages(nn.Module):
    """Convolutions on channels first; between two stages the shape changes, without a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.stem, self.down = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 16, 2, 2)
        self.first = nn.ModuleList(ConvBlock(8) for _ in range(3))
        self.second = nn.ModuleList(ConvBlock(16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        self.seen = [x]
        for block in self.first:
            x = block(x)
            self.seen.append(x)
        x = self.down(x)
        for block in self.second:
            x = block(x)
            self.seen.append(x)
        return x.mean((2, 3))


class ConvBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(1, channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.gelu(self.conv(self.norm(x)))


class EncoderDecoder(nn.Module):
    """Two streams; every block of the decoder looks at the output of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.encoded: list[Tensor] = []
        self.embedding = nn.Embedding(40, WIDTH)
        self.encoder = nn.ModuleList(PreNormBlock() for _ in range(5))
        self.decoder = nn.ModuleList(CrossBlock() for _ in range(6))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, x = self.embedding(source), self.embedding(target)
        self.encoded, self.seen = [memory], [x]
        for block in self.encoder:
            memory = block(memory)
            self.encoded.append(memory)
        for block in self.decoder:
            x = block(x, memory)
            self.seen.append(x)
        return x


class CrossBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention, self.mlp = nn.LayerNorm(WIDTH), Attention(), MLP(norm=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), memory)
        return x + self.mlp(x)


class Checkpointed(Net):
    """A stream whose blocks are computed again in the backward pass; ``how`` is ``None`` for a plain one."""

    block = PreNormBlock

    def __init__(self, how: str | None):
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        self.seen = [x]
        for block in self.blocks:
            x = block(x) if self.how is None else checkpoint(block, x, use_reentrant=self.how == "reentrant")
            self.note(x)
        return x


class Written(Net):
    """A norm that is written out, and an addition in place."""

    block = staticmethod(lambda: WrittenBlock())  # type: ignore[assignment]


class WrittenBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain, self.mlp = nn.Parameter(torch.zeros(WIDTH)), MLP()

    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + self.gain)
        branch = self.mlp(normed)
        branch += x
        return branch


class TransposedBlock(nn.Module):
    """Weights that enter by an attribute, as ``weight.T``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.first = nn.Parameter(torch.randn(2 * WIDTH, WIDTH) / 4)
        self.second = nn.Parameter(torch.randn(WIDTH, 2 * WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + functional.gelu(self.norm(x) @ self.first.T) @ self.second.mT


class Transposed(Net):
    block = TransposedBlock


class RotaryBlock(nn.Module):
    """Rotated and normalized queries and keys, written out, of a stream that no norm stands before, as in OLMo-2."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norms = nn.ModuleList(nn.RMSNorm(WIDTH) for _ in range(4))
        self.out, self.mlp = nn.Linear(WIDTH, WIDTH), MLP()

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(float(x.shape[1]))[:, None].expand(-1, WIDTH)
        q, k = (
            h * angle.cos() + torch.cat([-h[..., WIDTH // 2 :], h[..., : WIDTH // 2]], -1) * angle.sin()
            for h in (norm(weight(x)) for norm, weight in zip(self.norms, self.qkv[:2], strict=False))
        )
        scores = (q @ k.mT / WIDTH**0.5 + torch.ones(x.shape[1], x.shape[1]).tril().log()).softmax(-1)
        x = x + self.norms[2](self.out(scores @ self.qkv[2](x)))
        return x + self.norms[3](self.mlp(x))


class Rotary(Net):
    """Of ``depth`` blocks."""

    def __init__(self, depth: int) -> None:
        nn.Module.__init__(self)
        self.blocks = nn.ModuleList(RotaryBlock() for _ in range(depth))


class Hashed(Net):
    """Ids are hashed before they are looked up, as CANINE does; what tells padding apart is looked up too."""

    block = PreNormBlock

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(16, WIDTH), nn.Embedding(8, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        hashed = (ids * 31 + 7) % 16
        x = self.table(hashed) + self.places(torch.arange(ids.shape[1]))
        self.seen = [x]
        for block in self.blocks:
            x = self.note(block(x))
        return x


class Behind(nn.Module):
    """A stream behind values that no gradient passes."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.backbone, self.codes = how, nn.Linear(WIDTH, WIDTH), nn.Embedding(WIDTH, WIDTH)
        self.rest = PreNorm()

    def before(self, x: Tensor) -> Tensor:
        if self.how == "codes":
            return self.codes(self.backbone(x).argmax(-1))
        if self.how == "detached":
            return torch.tanh(self.backbone(x).detach())
        with torch.inference_mode() if self.how == "inference mode" else torch.no_grad():
            return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.before(x))


class SequenceFirst(nn.Module):
    """Torch's own encoder as it comes: (tokens, batch, channels)."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, dropout=0.0, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.seen: list[Tensor] = []
        for one in self.encoder.layers:
            one.register_forward_hook(lambda module, given, result: self.seen.append(result))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = [x]
        return self.encoder(x)


class Dense(nn.Module):
    """Every layer takes all values before it, as DenseNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8 * (number + 1), 8) for number in range(10))

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for layer in self.layers:
            values.append(functional.relu(layer(torch.cat(values, -1))))
        return torch.cat(values, -1)


class UNet(nn.Module):
    """Nested skips around everything between them, and residual blocks on the way down and up."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Sequential(ConvBlock(8), ConvBlock(8)) for _ in range(4))
        self.up = nn.ModuleList(nn.Sequential(ConvBlock(8), ConvBlock(8)) for _ in range(4))
        self.join = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = functional.avg_pool2d(x, 2)
        for block, join in zip(self.up, self.join, strict=True):
            x = functional.interpolate(x, scale_factor=2)
            x = block(join(torch.cat([x, skips.pop()], 1)))
        return x


class TwoLanes(nn.Module):
    """Two streams in a tuple; each block writes to both."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList([MLP(norm=True), MLP(norm=True)]) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        one = two = x
        for first, second in self.blocks:
            out = first(one)
            one, two = one + out, two + out
            out = second(two)
            one, two = one + out, two + out
        return one + two


class Plain(nn.Sequential):
    """No skip anywhere."""

    def __init__(self) -> None:
        super().__init__(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(6)))


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
