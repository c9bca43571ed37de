"""Swap the norms of a model for pointwise functions (or back), in place, keeping what can be kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from criticality.models.normalizers import DynamicPointwise
from criticality.schema import whole_or_absent
from criticality.theory.norms import LAYER_NORMS, RMS_NORMS, make_norm, takes_alpha

HEAD_NORMS = ("q_norm", "k_norm")
"""Norms of queries and keys act on heads, not on the stream: they are kept unless asked for."""


@dataclass(frozen=True)
class Replacement:
    """One norm that was replaced: its name in the model, what it was and what it is now."""

    name: str
    before: nn.Module
    after: nn.Module

    def __str__(self) -> str:
        return f"{self.name}: {type(self.before).__name__} -> {self.after}"


@dataclass(frozen=True)
class Conversion:
    """What ``replace_norms`` did, in the order of the model; ``undo`` puts everything back."""

    model: nn.Module
    replacements: tuple[Replacement, ...]

    def undo(self) -> None:
        """Put the modules that were there before back in their places."""
        for replacement in self.replacements:
            _assign(self.model, replacement.name, replacement.before)

    def __str__(self) -> str:
        return "\n".join(str(replacement) for replacement in self.replacements)


def check_norm(norm: str | None, alpha: float | None) -> None:
    """Refuse an unknown norm, an ``alpha`` that is not allowed, and an ``alpha`` without a norm.

    Raises:
        ValueError: naming the argument and the value.
    """
    if norm is not None:
        make_norm(norm, alpha)
    elif alpha is not None:
        raise ValueError(f"alpha={alpha!r} must come with a pointwise norm, and no norm was given")


def replace_norms(
    model: nn.Module, norm: str, alpha: float | None = None, *, keep: Sequence[str] = HEAD_NORMS
) -> Conversion:
    """Replace every LayerNorm, RMSNorm and pointwise norm of a model in place, timm's and Hugging Face's included.

    Device, dtype, training mode and the affine parameters (``weight``, ``bias``) are kept: the new module holds the
    same parameter objects, so that tied and optimizer references stay valid.  A norm without affine parameters gets
    a module without them.

    Args:
        model: any module.
        norm: ``dyt``, ``derf``, any built-in function, ``ln``, ``rms`` or ``none``.
        alpha: of a pointwise function (default 1).
        keep: last parts of names that are left as they are.

    Raises:
        ValueError: a norm that cannot be replaced faithfully (over several axes, over the batch or groups, or with
            ``1 + weight`` as scale), nothing to replace, or an unknown norm. The model is then as it was.
    """
    make_norm(norm, alpha)
    found = [(name, module) for name, module in model.named_modules(remove_duplicate=False) if _is_norm(module)]
    found = [(name, module) for name, module in found if name.rpartition(".")[2] not in keep]
    if not found:
        raise ValueError(f"model {type(model).__name__} must have a LayerNorm or RMSNorm to replace, and has none")
    new: dict[int, nn.Module] = {}
    for name, module in found:
        if id(module) not in new:
            new[id(module)] = _replacement(name, module, norm, alpha)
    replacements = tuple(Replacement(name, module, new[id(module)]) for name, module in found)
    for replacement in replacements:
        _assign(model, replacement.name, replacement.after)
    return Conversion(model, replacements)


def write_weights(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a model's state dict as safetensors, whole or not at all; tensors that are shared are written once each."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    with whole_or_absent(path) as file:
        save_file(tensors, file)
    return Path(path)


def norm_width(module: nn.Module) -> int | None:
    """Channels of a LayerNorm, RMSNorm or pointwise norm, whatever library it comes from; ``None`` for other modules."""
    if isinstance(module, DynamicPointwise):
        return module.width
    shape = getattr(module, "normalized_shape", None)
    weight = getattr(module, "weight", None)
    if shape is None and isinstance(weight, torch.Tensor):
        shape = tuple(weight.shape)
    if shape is None:
        return None
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return int(shape[0]) if len(shape) == 1 else None


def norm_epsilon(module: nn.Module) -> float:
    """``epsilon`` of a norm, by any of its usual names."""
    for name in ("eps", "variance_epsilon", "epsilon"):
        value = getattr(module, name, None)
        if value is not None:
            return float(value)
    return 1e-6 if isinstance(module, DynamicPointwise) else float(torch.finfo(torch.float32).eps)


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a norm leaves the mean alone."""
    return "rms" in type(module).__name__.lower()


def channels_first(module: nn.Module) -> bool:
    """Whether a norm acts on axis 1 of images, as timm's LayerNorm2d does."""
    return type(module).__name__.endswith("2d")


def _is_norm(module: nn.Module) -> bool:
    if isinstance(module, DynamicPointwise):
        return True
    name = type(module).__name__.lower()
    return "norm" in name and not any(True for _ in module.children()) and not isinstance(module, nn.Identity)


def _replacement(name: str, module: nn.Module, norm: str, alpha: float | None) -> nn.Module:
    kind = type(module).__name__
    if isinstance(module, (nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.LocalResponseNorm)) and not (
        isinstance(module, nn.GroupNorm) and module.num_groups == 1 and "LayerNorm" in kind
    ):
        raise ValueError(f"norm '{name}' must be a LayerNorm or RMSNorm, but is a {kind}, which averages otherwise")
    width = norm_width(module)
    if width is None:
        raise ValueError(f"norm '{name}' must act on one axis of channels, but is a {kind} {module.extra_repr()}")
    if "gemma" in kind.lower() or "zerocentered" in kind.lower():
        raise ValueError(f"norm '{name}' must scale by its weight, but a {kind} scales by 1 + weight")
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    after = _build(norm, alpha, width, module, weight)
    for part, parameter in (("weight", weight), ("bias", bias)):
        if isinstance(parameter, nn.Parameter) and hasattr(after, part):
            setattr(after, part, parameter)
    return after.train(module.training)


def _build(norm: str, alpha: float | None, width: int, module: nn.Module, weight: Any) -> nn.Module:
    key = norm.lower()
    tensor = weight if isinstance(weight, torch.Tensor) else None
    where: dict[str, Any] = {} if tensor is None else {"device": tensor.device, "dtype": tensor.dtype}
    if takes_alpha(norm):
        return DynamicPointwise(
            width,
            norm,
            1.0 if alpha is None else alpha,
            affine=tensor is not None,
            channels_first=channels_first(module),
            **where,
        )
    if key == "none":
        return nn.Identity()
    if channels_first(module):
        raise ValueError(f"norm={norm!r} must act on the last axis, but the model's {type(module).__name__} does not")
    if key in RMS_NORMS:
        return nn.RMSNorm(width, eps=norm_epsilon(module), elementwise_affine=tensor is not None, **where)
    assert key in LAYER_NORMS
    return nn.LayerNorm(width, eps=norm_epsilon(module), elementwise_affine=tensor is not None, **where)


def _assign(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    if not last:
        raise ValueError("model must contain its norms, but is a norm itself")
    setattr(model.get_submodule(parent), last, module)
