"""Inputs that a transformers model takes, by what its config says of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from criticality.errors import InputsError
from criticality.extras import require
from criticality.models.images import photographs
from criticality.shapes import Int


def transformers_inputs(config: Any, text: Int[Tensor, "sequences tokens"], seed: int = 0) -> dict[str, Tensor]:
    """Keyword arguments for the model of a config: text, photographs, noise for sound, or several of them.

    Raises:
        InputsError: a model that takes none of these.
    """
    require("transformers")
    from transformers import AutoModel

    try:
        kind: Any = AutoModel._model_mapping[type(config)]
    except KeyError:
        raise InputsError(f"model type {config.model_type!r} must be one that transformers' AutoModel builds") from None
    kind = kind[0] if isinstance(kind, tuple) else kind
    main = str(getattr(kind, "main_input_name", "input_ids"))
    makers = {
        "input_ids": lambda: text,
        "pixel_values": lambda: _pictures(config),
        "input_features": lambda: _features(config, len(text), seed),
        "input_values": lambda: _noise((len(text), 4000), seed),
    }
    if main not in makers:
        raise InputsError(
            f"model type {config.model_type!r} takes {main!r}, and example inputs are made of text, images and sound"
        )
    if hasattr(config, "vision_config") or main == "pixel_values":
        text = text[:2]  # as many as there are photographs
    inputs = {main: makers[main]()}
    if main == "pixel_values" and hasattr(config, "text_config"):
        inputs["input_ids"] = text
    if main == "input_ids" and hasattr(config, "vision_config") and hasattr(config, "text_config"):
        inputs["pixel_values"] = _pictures(config.vision_config)
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = text
    return inputs


def _pictures(config: Any) -> Tensor:
    """Two photographs of the size and with the number of channels that a config has."""
    config = config if hasattr(config, "image_size") else getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None) or 224
    size = (size["height"], size["width"]) if isinstance(size, dict) else size
    size = size if isinstance(size, int) else size[0] if len(size) == 1 else tuple(size)
    images = torch.from_numpy(photographs(size).copy())
    channels = getattr(config, "num_channels", 3) or 3
    return images if channels == 3 else images.mean(1, keepdim=True).expand(-1, channels, -1, -1).contiguous()


def _features(config: Any, sequences: int, seed: int) -> Tensor:
    """Noise in the place of spectrograms, channels first where the length of the input is fixed."""
    channels = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", None) or 80
    positions = getattr(config, "max_source_positions", None)
    if positions is not None and not hasattr(config, "input_feat_per_channel"):
        return _noise((sequences, channels, 2 * positions), seed)
    return _noise((sequences, 128, channels), seed)


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
