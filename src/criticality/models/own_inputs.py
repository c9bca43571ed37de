"""Inputs for a model that says itself what it takes: timm's and transformers' models."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from criticality.errors import InputsError
from criticality.stream.find import original

_TOKENS = 32


def inputs_of(model: nn.Module) -> Any:
    """Example inputs: two images of the size that a timm model was made for, or what a transformers config asks for.

    Returns:
        Images ``(2, channels, height, width)``, or keyword arguments.

    Raises:
        InputsError: a model that does not say what it takes.
    """
    model = original(model)
    config = getattr(model, "config", None)
    if hasattr(config, "model_type"):
        from criticality.models.example_inputs import transformers_inputs
        from criticality.models.text import random_tokens

        vocabulary = getattr(config, "vocab_size", None) or getattr(
            getattr(config, "text_config", config), "vocab_size", 256
        )
        longest = getattr(config, "max_position_embeddings", None) or _TOKENS
        text = random_tokens(2, min(_TOKENS, int(longest)), min(256, int(vocabulary or 256)))
        return transformers_inputs(config, torch.from_numpy(text))
    size = _image_size(model)
    if size is None:
        raise InputsError(
            f"inputs=None must be a batch for a {type(model).__name__}, which does not say itself what it takes:"
            " give inputs=..., as for measure"
        )
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def _image_size(model: nn.Module) -> tuple[int, int, int, int] | None:
    """As the patch embedding has it, else as the configuration that timm keeps with a model."""
    embedding, published = getattr(model, "patch_embed", None), getattr(model, "default_cfg", None)
    size, channels = getattr(embedding, "img_size", None), getattr(model, "in_chans", None)
    given = published.get("input_size") if isinstance(published, dict) else None
    if size is None and given is not None:
        size = given[1:]
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if channels is None:
        first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
        channels = first.in_channels if first is not None else 3
    return 2, int(channels), int(height), int(width)
