"""timm's vision transformers: built with any norm and any initialization, and read as a ``Network``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from timm.models.vision_transformer import Attention as TimmAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from criticality.models.initialization import InitializationRecorder, SecondMoment, actual_second_moment, initialize
from criticality.models.normalizers import DynamicPointwise
from criticality.pointwise import Pointwise
from criticality.theory import MLP, Attention, LayerNorm, Network, NoNorm, PointwiseNorm, RMSNorm, Sublayer, TokenKernel
from criticality.theory.norms import Norm, make_norm, takes_alpha


@dataclass(frozen=True)
class ViTDescription:
    """A timm vision transformer by name, with what is changed of it; ``None`` keeps the model's own value.

    Attributes:
        name: as timm knows it, without ``timm:``.
        norm: ``ln``, ``rms``, ``none``, ``dyt``, ``derf`` or any built-in function.
        alpha: of a pointwise norm.
        depth, width, heads: blocks, channels, and attention heads (default: 64 channels each, when the width is
            changed).
        image_size: pixels.
        init: ``timm`` or ``fan-in``.
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
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{field}={value!r} must be a whole number, 1 or above")
        if self.width is not None and self.width % self._heads_of_width():
            raise ValueError(f"width={self.width!r} must be divisible by heads={self._heads_of_width()}")
        if self.norm is not None:
            make_norm(self.norm, self.alpha)
        elif self.alpha is not None:
            raise ValueError(f"alpha={self.alpha!r} must come with a pointwise norm, and no norm was given")
        initialize(nn.Module(), self.init) if self.init != "fan-in" else None

    def _heads_of_width(self) -> int:
        if self.heads is not None:
            return self.heads
        return self.width // 64 if self.width is not None and self.width % 64 == 0 else 1

    def build(self, device: torch.device | str | None = None) -> VisionTransformer:
        """The torch model, random weights, from torch's random state.

        Raises:
            ValueError: when timm's model of that name is not a plain vision transformer, or refuses the changes.
        """
        changes: dict[str, Any] = {"depth": self.depth, "embed_dim": self.width, "img_size": self.image_size}
        if self.width is not None or self.heads is not None:
            changes["num_heads"] = self._heads_of_width()
        if self.norm is not None:
            changes["norm_layer"] = norm_layer(self.norm, self.alpha)
        given = {key: value for key, value in changes.items() if value is not None}
        try:
            model = timm.create_model(self.name, pretrained=False, device=device, **given)
        except (TypeError, AssertionError, RuntimeError) as error:
            raise ValueError(f"model 'timm:{self.name}' must accept {asdict(self)}, but timm says: {error}") from error
        if not isinstance(model, VisionTransformer):
            raise ValueError(f"model 'timm:{self.name}' must be a VisionTransformer, but is a {type(model).__name__}")
        initialize(model, self.init)
        return model

    def input_size(self) -> int:
        """Side of the square images that the model takes, in pixels; allocates no weight."""
        return int(self.build(device="meta").patch_embed.img_size[0])

    def describe(self, inputs: np.ndarray | None = None) -> tuple[Network, list[TokenKernel]]:
        """The network and, from images ``(images, 3, size, size)``, the kernels at its input; allocates no weight.

        Raises:
            ValueError: when the model has a part that the theory does not describe.
        """
        recorder = InitializationRecorder()
        with recorder:
            model = self.build(device="meta")
        kernels = [] if inputs is None else embedding_kernels(model, inputs, recorder.second_moment)
        return vit_network(model, recorder.second_moment), kernels


def timm_name(model: str) -> str:
    """``NAME`` of ``timm:NAME``.

    Raises:
        ValueError: for anything else.
    """
    family, colon, name = model.partition(":")
    if family != "timm" or not colon or not name:
        raise ValueError(f"model {model!r} must be given as 'timm:NAME', such as 'timm:vit_base_patch16_224'")
    return name


def norm_layer(norm: str, alpha: float | None = None) -> Any:
    """A norm by name as timm's ``norm_layer``: called with the width, ``device`` and ``dtype``."""
    make_norm(norm, alpha)
    if takes_alpha(norm):
        return partial(DynamicPointwise, function=norm, alpha=1.0 if alpha is None else alpha)
    key = norm.lower()
    if key == "none":
        return _identity
    return partial(nn.RMSNorm, eps=1e-6) if key.startswith("rms") else partial(nn.LayerNorm, eps=1e-6)


def _identity(width: int, **kwargs: Any) -> nn.Identity:
    return nn.Identity()


def vit_network(
    model: nn.Module, second_moment: SecondMoment | Sequence[SecondMoment] = actual_second_moment
) -> Network:
    """Read a timm vision transformer as pre-norm sub-layers, each with the variances of its own weights.

    Raises:
        ValueError: for a model or a part of it that the theory does not describe (QK-norm, gates, other blocks).
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"model must be a timm VisionTransformer, but is a {type(model).__name__}")
    second = second_moment if callable(second_moment) else second_moment[0]
    if not isinstance(model.norm_pre, nn.Identity):
        raise ValueError("norm_pre of the model must be absent: the theory starts at the input of the first block")
    sublayers: list[Sublayer] = []
    for index, block in enumerate(model.blocks):
        if not isinstance(block, Block) or not isinstance(block.attn, TimmAttention):
            raise ValueError(
                f"block {index} must be timm's Block with its Attention, but is a {type(block).__name__} with a"
                f" {type(getattr(block, 'attn', None)).__name__}"
            )
        sublayers.append(
            Sublayer(_attention(block.attn, second), _norm(block.norm1, second), _scale(block.ls1, second))
        )
        sublayers.append(Sublayer(_mlp(block.mlp, second), _norm(block.norm2, second), _scale(block.ls2, second)))
    return Network(tuple(sublayers), sublayers_per_block=2, name=type(model).__name__)


def _scale(layer_scale: nn.Module, second: SecondMoment) -> float:
    gamma = getattr(layer_scale, "gamma", None)
    return 1.0 if gamma is None else float(np.sqrt(second(gamma)))


def _norm(norm: nn.Module, second: SecondMoment) -> Norm:
    if isinstance(norm, nn.Identity):
        return NoNorm()
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    gamma = 1.0 if weight is None else float(np.sqrt(second(weight)))
    beta = 0.0 if bias is None else float(np.sqrt(second(bias)))
    if isinstance(norm, DynamicPointwise):
        alpha = float(np.sqrt(second(norm.alpha)))
        shift = 0.0 if norm.shift is None else float(np.sqrt(second(norm.shift)))
        return PointwiseNorm(Pointwise(norm.function, alpha=alpha, shift=shift, gamma=gamma, beta=beta))
    if isinstance(norm, nn.LayerNorm):
        return LayerNorm(norm.eps, gamma, beta)
    if isinstance(norm, nn.RMSNorm):
        return RMSNorm(norm.eps or float(torch.finfo(torch.float32).eps), gamma, beta)
    raise ValueError(f"norm must be LayerNorm, RMSNorm or pointwise, but is a {type(norm).__name__}")


def _linear(linear: nn.Module, second: SecondMoment) -> tuple[float, float]:
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"projection must be a Linear layer, but is a {type(linear).__name__}")
    bias = 0.0 if linear.bias is None else second(linear.bias)
    return linear.in_features * second(linear.weight), bias


def _attention(attention: Any, second: SecondMoment) -> Attention:
    for part in ("q_norm", "k_norm", "norm"):
        if not isinstance(getattr(attention, part, nn.Identity()), nn.Identity):
            raise ValueError(f"{part} of the attention must be absent: the theory does not describe it yet")
    if getattr(attention, "gate", None) is not None:
        raise ValueError("gate of the attention must be absent: the theory does not describe it yet")
    if attention.attn_dim != attention.qkv.in_features:
        raise ValueError(f"attention must have heads * head_dim = width, but has {attention.attn_dim}")
    width = attention.qkv.in_features
    weights = [
        second(part) if not part.is_meta else second(attention.qkv.weight) for part in attention.qkv.weight.split(width)
    ]
    bias = attention.qkv.bias
    biases = [0.0] * 3
    if bias is not None:
        biases = [second(part) if not part.is_meta else second(bias) for part in bias.split(width)]
    output, output_bias = _linear(attention.proj, second)
    query, key, value = (width * weight for weight in weights)
    query_bias, key_bias, value_bias = biases
    return Attention(
        query,
        key,
        value,
        output,
        query_bias,
        key_bias,
        value_bias,
        output_bias,
        heads=attention.num_heads,
        head_dim=attention.head_dim,
    )


def _mlp(mlp: Any, second: SecondMoment) -> MLP:
    if (
        not hasattr(mlp, "fc1")
        or hasattr(mlp, "fc1_g")
        or not isinstance(getattr(mlp, "norm", nn.Identity()), nn.Identity)
    ):
        raise ValueError(f"MLP must be timm's plain Mlp, but is a {type(mlp).__name__}")
    (inner, inner_bias), (outer, outer_bias) = _linear(mlp.fc1, second), _linear(mlp.fc2, second)
    ratio = mlp.fc1.out_features / mlp.fc1.in_features
    return MLP(Pointwise(_activation(mlp.act)), inner, outer, inner_bias, outer_bias, ratio)


def _activation(activation: nn.Module) -> str:
    if isinstance(activation, nn.GELU):
        return "gelu" if activation.approximate == "none" else "gelu_tanh"
    names = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Identity: "identity"}
    for kind, name in names.items():
        if isinstance(activation, kind):
            return name
    if type(activation).__name__ == "GELUTanh":
        return "gelu_tanh"
    raise ValueError(f"activation must be GELU, SiLU, ReLU, Tanh or Identity, but is a {type(activation).__name__}")


def embedding_kernels(
    model: VisionTransformer, images: np.ndarray, second_moment: SecondMoment = actual_second_moment
) -> list[TokenKernel]:
    """Expected kernels at the input of the first block, one for each of ``images`` (images, channels, size, size).

    ``K_ab = Var(W) x_a . x_b + Var(b) + delta_ab Var(pos)`` for patches ``x_a``; class and register tokens have only
    their own variance and that of their position.

    Raises:
        ValueError: images of another size than the model's, or an embedding that is not a plain patch projection.
    """
    projection = getattr(model.patch_embed, "proj", None)
    if not isinstance(projection, nn.Conv2d) or not isinstance(model.patch_embed.norm, nn.Identity):
        raise ValueError(f"patch embedding must be one convolution, but is a {type(model.patch_embed).__name__}")
    size = tuple(model.patch_embed.img_size)
    if images.ndim != 4 or images.shape[2:] != size:
        raise ValueError(f"images must have the shape (images, channels, {size[0]}, {size[1]}), got {images.shape}")
    height, width = projection.kernel_size
    count, channels = images.shape[:2]
    rows, columns = size[0] // height, size[1] // width
    patches = images.reshape(count, channels, rows, height, columns, width).transpose(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(count, rows * columns, -1).astype(float)
    bias = 0.0 if projection.bias is None else second_moment(projection.bias)
    gram = second_moment(projection.weight) * patches @ patches.transpose(0, 2, 1) + bias
    prefix = [
        second_moment(token)
        for token in (model.cls_token, model.reg_token)
        if token is not None
        for _ in range(token.shape[1])
    ]
    tokens = len(prefix) + rows * columns
    position = np.zeros(tokens)
    if model.pos_embed is not None:
        position[tokens - model.pos_embed.shape[1] :] = second_moment(model.pos_embed)
    kernels = np.zeros((count, tokens, tokens))
    kernels[:, len(prefix) :, len(prefix) :] = gram
    kernels += np.diag(position + np.array([*prefix, *[0.0] * (rows * columns)]))
    return [TokenKernel.of(kernel) for kernel in kernels]
