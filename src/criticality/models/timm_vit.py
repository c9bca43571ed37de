"""timm's models: built with any norm and any initialization; its vision transformers are read as a ``Network``.

Read: VisionTransformer (ViT, DeiT, DeiT-III, ...) and Eva (EVA-02 and ViTs with rotary positions).  MLP-Mixer is not: its
token mixing shares weights between channels, so that its output is correlated with the stream (docs/families).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from criticality.errors import InputsError, ModelFailedError, UndescribedError
from criticality.models.conversion import check_norm, replace_norms
from criticality.models.images import patch_kernels, photographs
from criticality.models.initialization import (
    InitializationRecorder,
    SecondMoment,
    actual_second_moment,
    initialize,
    initialize_branches,
)
from criticality.models.reading import (
    make_attention,
    make_gated_mlp,
    read_activation,
    read_fused,
    read_head_norm,
    read_linear,
    read_mlp,
    read_norm,
    reading,
    require_absent,
)
from criticality.theory import MLP, Attention, GatedMLP, Network, Rotary, Sublayer, TokenKernel
from criticality.theory.network import check_whole


@dataclass(frozen=True)
class ViTDescription:
    """A timm model by name, with what is changed of it; ``None`` keeps the model's own value.

    Attributes:
        name: as timm knows it, without ``timm:``.
        norm: ``ln``, ``rms``, ``none``, ``dyt``, ``derf`` or any built-in function, in place of every norm of the stream.
        alpha: of a pointwise norm.
        depth, width, heads: blocks, channels, and attention heads (default: 64 channels each, when the width is
            changed).
        image_size: pixels.
        init: ``own`` (``timm`` says the same) or ``fan-in``, of the weights of all branches.
    """

    name: str
    norm: str | None = None
    alpha: float | None = None
    depth: int | None = None
    width: int | None = None
    heads: int | None = None
    image_size: int | None = None
    init: str = "timm"

    def __post_init__(self) -> None:
        if not timm.is_model(self.name):
            raise ValueError(f"model 'timm:{self.name}' must be a model of timm {timm.__version__}, and is not")
        for field in ("depth", "width", "heads", "image_size"):
            check_whole(field, getattr(self, field))
        if self.width is not None and self.width % self._heads_of_width():
            raise ValueError(f"width={self.width!r} must be divisible by heads={self._heads_of_width()}")
        check_norm(self.norm, self.alpha)
        initialize([], self.init)

    def _heads_of_width(self) -> int:
        if self.heads is not None:
            return self.heads
        return self.width // 64 if self.width is not None and self.width % 64 == 0 else 1

    def create(self, device: torch.device | str | None = None) -> nn.Module:
        """The torch model at its own initialization, from torch's random state, with the norms asked for.

        Raises:
            ValueError: when timm refuses the changes for the model of that name.
        """
        changes: dict[str, Any] = {"depth": self.depth, "embed_dim": self.width, "img_size": self.image_size}
        if self.width is not None or self.heads is not None:
            changes["num_heads"] = self._heads_of_width()
        given = {key: value for key, value in changes.items() if value is not None}
        try:
            model = timm.create_model(self.name, pretrained=False, device=device, **given)
        except (TypeError, AssertionError, RuntimeError, KeyError, AttributeError, IndexError) as error:
            if not given:
                raise ModelFailedError(
                    f"model 'timm:{self.name}' must be built by timm, which says: {error}"
                ) from error
            asked = ", ".join(f"{key}={value!r}" for key, value in given.items())
            raise InputsError(
                f"model 'timm:{self.name}' must accept {asked}, and timm says: {type(error).__name__}: {error}"
            ) from error
        if self.norm is not None:
            replace_norms(model, self.norm, self.alpha)
        return model

    def build(self, device: torch.device | str | None = None) -> nn.Module:
        """The torch model, random weights, from torch's random state.

        Raises:
            ValueError: as ``create``; with ``fan-in`` a model whose residual stream is not found.
        """
        model = self.create(device)
        if isinstance(model, (VisionTransformer, Eva)):
            initialize(model.blocks, self.init)
        elif self.init == "fan-in":
            initialize_branches(model, self.init, self.inputs())
        return model

    def input_size(self) -> int:
        """Side of the square images that the model takes, in pixels; allocates no weight."""
        if self.image_size is not None:
            return self.image_size
        published = timm.get_pretrained_cfg(self.name)
        return 224 if published is None else int(published.input_size[-1])

    def inputs(self, seed: int = 0) -> Tensor:
        """The two photographs, at the model's size: the same for every seed."""
        return torch.from_numpy(photographs(self.input_size()))

    def points(self, model: nn.Module) -> None:
        """Found by themselves."""

    def network(self, model: nn.Module, second_moment: SecondMoment = actual_second_moment) -> Network:
        """Read a model that ``build`` made."""
        with reading(f"model 'timm:{self.name}'"):
            return vit_network(model, second_moment, self._rope)

    def _rope(self) -> Any:
        """The rotary embedding with real numbers in it, from a model of one block."""
        model: Any = replace(self, norm=None, alpha=None, depth=1).build()
        return model.rope

    def describe(self, seed: int = 0) -> tuple[Network, list[TokenKernel]]:
        """The network and the expected kernels at its input; allocates no weight (with rotary positions: of one block).

        Raises:
            ValueError: when the model has a part that the theory does not describe.
        """
        if timm.is_model(self.name) and not _is_read(self.name):
            raise UndescribedError(
                f"model 'timm:{self.name}' must be a VisionTransformer or Eva for the exact theory, and is none"
            )
        recorder = InitializationRecorder()
        try:
            with recorder:
                model = self.build(device="meta")
        except (InputsError, ModelFailedError):
            raise
        except (RuntimeError, NotImplementedError) as error:
            raise UndescribedError(f"model 'timm:{self.name}' must be built without memory: {error}") from error
        with reading(f"model 'timm:{self.name}'"):
            kernels = embedding_kernels(model, self.inputs(seed).numpy(), recorder.second_moment)
        return self.network(model, recorder.second_moment), kernels


def _is_read(name: str) -> bool:
    """Whether timm builds a model of that name as one of the classes that are read."""
    function = timm.model_entrypoint(name)
    return function.__module__.rpartition(".")[2] in ("vision_transformer", "deit", "eva")


def vit_network(
    model: nn.Module, second_moment: SecondMoment = actual_second_moment, rope: Callable[[], Any] | None = None
) -> Network:
    """Read a timm model as pre-norm sub-layers, each with the variances of its own weights.

    ``rope`` makes the rotary embedding of a model on the meta device, which holds no numbers of its own.

    Raises:
        ValueError: for a model or a part of it that the theory does not describe (gates, mixed rotation, other blocks).
    """
    read: Callable[[Any], tuple[Sublayer, Sublayer]]
    if isinstance(model, Eva):
        require_absent(model.norm_pre, "norm_pre")
        read = partial(_eva_block, second=second_moment, rotary=_eva_rotary(model, rope))
    elif isinstance(model, VisionTransformer):
        require_absent(model.norm_pre, "norm_pre")
        read = partial(_vit_block, second=second_moment)
    else:
        raise UndescribedError(f"model must be a timm VisionTransformer or Eva, but is a {type(model).__name__}")
    blocks: Any = model.blocks
    sublayers = [sublayer for block in blocks for sublayer in read(block)]
    return Network(tuple(sublayers), sublayers_per_block=2, name=type(model).__name__)


def _vit_block(block: Any, second: SecondMoment) -> tuple[Sublayer, Sublayer]:
    if not isinstance(block, Block) or not isinstance(block.attn, TimmAttention):
        kinds = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
        raise ValueError(f"block of the model must be timm's Block with its Attention, but is a {kinds}")
    return (
        Sublayer(
            _attention(block.attn, second),
            read_norm(block.norm1, second),
            _scale(getattr(block.ls1, "gamma", None), second),
        ),
        Sublayer(
            _mlp(block.mlp, second), read_norm(block.norm2, second), _scale(getattr(block.ls2, "gamma", None), second)
        ),
    )


def _eva_block(block: Any, second: SecondMoment, rotary: Rotary | None) -> tuple[Sublayer, Sublayer]:
    if type(block).__name__ != "EvaBlock":
        raise ValueError(f"block of the model must be timm's EvaBlock, but is a {type(block).__name__}")
    return (
        Sublayer(
            replace(_attention(block.attn, second), rotary=rotary),
            read_norm(block.norm1, second),
            _scale(block.gamma_1, second),
        ),
        Sublayer(_mlp(block.mlp, second), read_norm(block.norm2, second), _scale(block.gamma_2, second)),
    )


def _scale(gamma: Tensor | None, second: SecondMoment) -> float:
    return 1.0 if gamma is None else math.sqrt(second(gamma))


def _attention(attention: Any, second: SecondMoment) -> Attention:
    require_absent(getattr(attention, "norm", None), "norm of the attention's output")
    require_absent(getattr(attention, "gate", None), "gate of the attention")
    if attention.qkv is not None:
        width = attention.qkv.in_features
        query, key, value = read_fused(attention.qkv.weight, attention.qkv.bias, 3, width, second)
        if getattr(attention, "q_bias", None) is not None:
            query, value = (query[0], second(attention.q_bias)), (value[0], second(attention.v_bias))
    else:
        query, key, value = (read_linear(getattr(attention, f"{part}_proj"), second) for part in "qkv")
    return make_attention(
        query,
        key,
        value,
        read_linear(attention.proj, second),
        heads=attention.num_heads,
        head_dim=attention.head_dim,
        query_norm=read_head_norm(attention.q_norm, second),
        key_norm=read_head_norm(attention.k_norm, second),
        score_scale=float(attention.scale) * math.sqrt(attention.head_dim),
    )


def _mlp(mlp: Any, second: SecondMoment) -> MLP | GatedMLP:
    require_absent(getattr(mlp, "norm", None), "norm inside the MLP")
    kind = type(mlp).__name__
    if kind == "Mlp":
        return read_mlp(mlp.fc1, mlp.fc2, read_activation(mlp.act), second)
    if kind == "GluMlp":
        width = mlp.fc1.in_features
        gate, up = read_fused(mlp.fc1.weight, mlp.fc1.bias, 2, width, second)
        if mlp.gate_last:
            gate, up = up, gate
        output = read_linear(mlp.fc2, second)
        return make_gated_mlp(read_activation(mlp.act), gate, up, output, mlp.fc2.in_features / width)
    if kind == "SwiGLU":
        gate, up, output = (read_linear(getattr(mlp, name), second) for name in ("fc1_g", "fc1_x", "fc2"))
        ratio = mlp.fc1_g.out_features / mlp.fc1_g.in_features
        return make_gated_mlp(read_activation(mlp.act), gate, up, output, ratio)
    raise ValueError(f"MLP of the model must be timm's Mlp, GluMlp or SwiGLU, but is a {kind}")


def _eva_rotary(model: Any, rope: Callable[[], Any] | None) -> Rotary | None:
    if model.rope is None:
        return None
    if getattr(model, "rope_mixed", False):
        raise ValueError("rope of the model must be axial: the theory does not describe mixed rotation, one per head")
    embedding = rope() if rope is not None else model.rope
    with torch.no_grad():
        table = (
            embedding.get_embed()
            if hasattr(embedding, "feat_shape")
            else embedding.get_embed(model.patch_embed.grid_size)
        )
    sine, cosine = table.double().chunk(2, -1)
    angles = torch.atan2(sine, cosine).numpy()
    half = bool(getattr(model.blocks[0].attn, "rotate_half", False))
    pairs = angles[:, : angles.shape[1] // 2] if half else angles[:, ::2]
    prefix = np.zeros((model.num_prefix_tokens, pairs.shape[1]))
    return Rotary(positions=np.concatenate([prefix, pairs]))


def embedding_kernels(
    model: nn.Module, images: np.ndarray, second_moment: SecondMoment = actual_second_moment
) -> list[TokenKernel]:
    """Expected kernels at the input of the first block, one for each of ``images`` (images, channels, size, size).

    ``K_ab = Var(W) x_a . x_b + Var(b) + delta_ab Var(pos)`` for patches ``x_a``; class, distillation and register tokens
    have only their own variance and that of their position.

    Raises:
        ValueError: images of another size than the model's, or an embedding that is not a plain patch projection.
    """
    embedding: Any = model.patch_embed
    projection = getattr(embedding, "proj", None)
    if not isinstance(projection, nn.Conv2d) or not isinstance(embedding.norm, nn.Identity):
        raise ValueError(f"patch embedding must be one convolution, but is a {type(embedding).__name__}")
    size = tuple(embedding.img_size)
    if images.ndim != 4 or images.shape[2:] != size:
        raise ValueError(f"images must have the shape (images, channels, {size[0]}, {size[1]}), got {images.shape}")
    gram = patch_kernels(images, projection, second_moment)
    prefix = [
        second_moment(token)
        for token in (getattr(model, f"{name}_token", None) for name in ("cls", "dist", "reg"))
        if token is not None
        for _ in range(token.shape[1])
    ]
    tokens = len(prefix) + gram.shape[1]
    diagonal = np.zeros(tokens)
    diagonal[: len(prefix)] = prefix
    positions = getattr(model, "pos_embed", None)
    if positions is not None:
        diagonal[tokens - positions.shape[1] :] += second_moment(positions)
    kernels = np.zeros((len(images), tokens, tokens))
    kernels[:, len(prefix) :, len(prefix) :] = gram
    return [TokenKernel.of(kernel + np.diag(diagonal)) for kernel in kernels]
