"""Tiny networks whose stream or whose blocks are out of the ordinary: shapes that change, several streams, norms and weights that
are written out, blocks that are computed again; each notes the values that the stream is made of, as in ``nets``.
"""

from __future__ import annotations

import torch
from nets import DEPTH, MLP, WIDTH, Attention, Net, PreNorm, PreNormBlock
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


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
