"""Hugging Face transformers: built from a config with random weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from criticality.arguments import Depth, Positive, Size, check_fields, meant
from criticality.errors import ArgumentError, CriticalityError, InputsError, ModelFailedError, UnknownNameError, raised
from criticality.extras import require
from criticality.memory import require_memory
from criticality.models.conversion import check_norm, replace_norms
from criticality.models.example_inputs import transformers_inputs
from criticality.models.initialization import check_init
from criticality.models.library_model import LibraryModel
from criticality.models.pretrained import RECORD, restore_norms
from criticality.models.sites import alphas_by_flow, on_heads_by_flow
from criticality.models.text import random_tokens, source_bytes
from criticality.moved import renamed_fields

BYTES = 256
SEQUENCES, BATCH_TOKENS = 2, 128
"""A batch of text is as many sequences as hold so many tokens, at least two: from one short stretch to another J differs much."""


@renamed_fields(describe="read(seed)")
@dataclass(frozen=True)
class HuggingFaceSpec(LibraryModel):
    """A Hugging Face model by config, with what is changed of it; ``None`` keeps the config's own value.

    The table of token embeddings is cut to the 256 bytes that inputs are made of: its other rows are never read.

    Attributes:
        name: path of a ``config.json`` (or of its folder), or a model type of transformers.
        norm, alpha: replace every norm of the stream (``replace_norms``); ``alpha`` a number, or by pattern, ``attention``, ``mlp``
            and ``final`` among them.
        depth, width, heads: blocks, channels and attention heads. With a width alone, heads keep their channels, and
            MLPs their ratio.
        image_size: pixels, of vision models.
        tokens: length of text inputs.
        text: ``bytes`` of Python's standard library, or ``random`` tokens.
        init: ``own``, or ``fan-in`` (``initialize``).
        embedding_scale: what token embeddings are multiplied by on their way into the stream, as the published language models
            with DyT do, by the root of their width at first.
    """

    name: str
    norm: str | None = None
    alpha: Positive | Mapping[str, Positive] | None = None
    depth: Depth | None = None
    width: Size | None = None
    heads: Size | None = None
    image_size: Size | None = None
    tokens: Size = 64
    text: Literal["bytes", "random"] = "bytes"
    init: str = "own"
    embedding_scale: Positive | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "alpha", check_norm(self.norm, self.alpha))
        check_init(self.init)
        self.config()

    def config(self) -> Any:
        """The transformers config with all changes.

        Raises:
            ValueError: no such file or model type, or sizes that do not fit.
        """
        config = _load_config(self.name)
        resized = {"depth": self.depth, "width": self.width, "heads": self.heads}
        changed = [name for name, value in resized.items() if value is not None]
        if changed and self.norm is None and getattr(config, RECORD, None):
            raise InputsError(
                f"{changed[0]} must be left out without a norm: model 'hf:{self.name}' was saved with norms put in by name"
            )
        if self.depth is not None:
            _set_depth(config, self.depth)
        if self.width is not None or self.heads is not None:
            _resize(config, self.width or _size(config, "hidden_size"), self.heads)
        parts: tuple[Any, ...] = (config, getattr(config, "vision_config", None))
        seeing = [part for part in parts if hasattr(part, "image_size")]
        if self.image_size is not None and not seeing:
            raise InputsError(
                f"image_size={self.image_size!r} must be left out: 'hf:{self.name}' takes no images by that name"
            )
        for part in seeing if self.image_size is not None else ():
            part.image_size = self.image_size
        for part in (config, getattr(config, "text_config", None)):
            if isinstance(getattr(part, "vocab_size", None), int):
                _shrink_vocabulary(part)
        return config

    def create(self, device: torch.device | str | None = None) -> nn.Module:
        """The torch model at its own initialization, from torch's random state, with the norms asked for.

        Raises:
            ModelFailedError: transformers does not build a model from this config.
        """
        require("transformers")
        from transformers import AutoModel

        config = self.config()
        try:
            with torch.device(device) if device is not None else nullcontext():
                model = AutoModel.from_config(config)
                if device is not None and torch.device(device).type == "meta":
                    model.initialize_weights()  # transformers leaves this out on the meta device
        except CriticalityError:
            raise
        except Exception as error:
            raise ModelFailedError(
                f"model 'hf:{self.name}' must be built by transformers, which raised {raised(error)}"
            ) from error
        if self.norm is not None:
            replace_norms(model, self.norm, alphas_by_flow(self), keep=on_heads_by_flow(model, self))
        else:
            restore_norms(model)
        if self.embedding_scale is not None:
            self._embeddings(model).register_forward_hook(_Times(self.embedding_scale))
        return model

    def _embeddings(self, model: nn.Module) -> nn.Module:
        try:
            return cast(nn.Module, cast(Any, model).get_input_embeddings())
        except (AttributeError, NotImplementedError):
            raise InputsError(
                f"embedding_scale={self.embedding_scale!r} must be left out: 'hf:{self.name}' has no token embeddings"
            ) from None

    def inputs(self, seed: int = 0) -> dict[str, Tensor]:
        """Keyword arguments of the model: two or more sequences of text, 128 tokens in all at least, two photographs, or noise.

        Raises:
            InputsError: a model that takes none of these.
        """
        sequences = max(SEQUENCES, math.ceil(BATCH_TOKENS / self.tokens))
        config = self.config()
        width = getattr(config, "hidden_size", 1)
        require_memory(
            4 * sequences * self.tokens * (width if isinstance(width, int) else 1), f"tokens={self.tokens!r}"
        )
        text = source_bytes(sequences, self.tokens, seed)
        if self.text == "random":
            text = random_tokens(sequences, self.tokens, BYTES, seed)
        return transformers_inputs(config, torch.from_numpy(text), seed)


class _Times:
    """A hook that multiplies what a module returns."""

    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        return output * self.factor


def _load_config(name: str) -> Any:
    require("transformers")
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    path = Path(name).expanduser()
    if path.suffix == ".json" or path.is_dir():
        file = path / "config.json" if path.is_dir() else path
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            kind = content.pop("model_type")
        except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise ArgumentError(
                f"model 'hf:{name}' must be a config.json with a model_type: {raised(error)}"
            ) from error
    else:
        kind, content = name, {}
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        near = meant(name, CONFIG_MAPPING)
        raise UnknownNameError(
            f"model 'hf:{name}' must be a path of a config.json or a model type, such as 'hf:llama'{near}"
        )
    _check_sizes(name, content)
    try:
        return AutoConfig.for_model(kind, **content)
    except Exception as error:
        raise ArgumentError(
            f"model 'hf:{name}' must have a valid config, and transformers says: {raised(error)}"
        ) from error


_SIZES = re.compile(
    "(vocab|hidden|image|patch|intermediate)_size|n_embd|d_model|d_ff|dim|head_dim|num_channels|(num|n)_(hidden_)?layers?"
    "|(num|n)_(attention_|key_value_)?heads?"
)


def _check_sizes(name: str, content: Mapping[str, Any]) -> None:
    """Some models of transformers take a vocabulary of 0, or as many layers, without a word."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            _check_sizes(name, value)
        elif _SIZES.fullmatch(key) and isinstance(value, int) and value < 1:
            raise ArgumentError(
                f"{key}={value!r} in the config of model 'hf:{name}' must be a whole number, 1 or above"
            )


def _size(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    if not isinstance(value, int):
        raise InputsError(
            f"{name} of a {config.model_type!r} config must be one number to be changed, and is {value!r}"
        )
    return value


def _set_depth(config: Any, depth: int) -> None:
    """Number of blocks, by whichever of its usual names the config has; of both encoder and decoder."""
    names = [
        name
        for name in ("num_hidden_layers", "num_layers", "encoder_layers")
        if isinstance(getattr(config, name, None), int)
    ]
    if not names:
        raise InputsError(
            f"depth={depth!r} must be left out: a {config.model_type!r} config has no one number of layers"
        )
    for name in (names[0], *(n for n in ("decoder_layers", "num_decoder_layers") if hasattr(config, n))):
        setattr(config, name, depth)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        with suppress(AttributeError):  # where it follows from the number of layers
            config.layer_types = [kinds[i % len(kinds)] for i in range(depth)]


def _shrink_vocabulary(config: Any) -> None:
    """To the bytes that inputs are made of; special tokens beyond them are none, of a list the first counts."""
    config.vocab_size = BYTES
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id"):
        token = getattr(config, name, None)
        token = token[0] if isinstance(token, (list, tuple)) and token else token
        if isinstance(token, int) and token >= BYTES:
            setattr(config, name, 0 if name == "decoder_start_token_id" else None)


def _resize(config: Any, width: int, heads: int | None) -> None:
    old_width = _size(config, "hidden_size")
    if heads is None and not hasattr(config, "num_attention_heads"):
        _widen(config, old_width, width)
        return
    old_heads = _size(config, "num_attention_heads")
    head_dim = getattr(config, "head_dim", None) or old_width // old_heads
    heads = heads or max(1, width * old_heads // old_width)
    if width % heads:
        raise ArgumentError(f"width={width!r} must be divisible by heads={heads!r}")
    groups = getattr(config, "num_key_value_heads", None)
    for inner in ("intermediate_size", "n_inner", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim"):
        if isinstance(getattr(config, inner, None), int):
            setattr(config, inner, getattr(config, inner) * width // old_width)
            if inner in ("intermediate_size", "n_inner"):
                break
    config.hidden_size, config.num_attention_heads = width, heads
    if groups is not None:
        config.num_key_value_heads = max(1, heads * groups // old_heads)
        if heads % config.num_key_value_heads:
            config.num_key_value_heads = heads
    rotated = getattr(config, "rotary_dim", None)
    if isinstance(rotated, int):  # the same share of a head's channels, in pairs
        config.rotary_dim = max(2, rotated * (width // heads) // (old_width // old_heads) // 2 * 2)
    if getattr(config, "head_dim", None) is not None:
        with suppress(AttributeError):  # where it follows from width and heads
            config.head_dim = (
                head_dim if width == heads * head_dim or head_dim * old_heads != old_width else width // heads
            )


def _widen(config: Any, old_width: int, width: int) -> None:
    """Width of a config without attention, with all that its class derives from a width and nobody set otherwise."""
    heads = getattr(config, "num_heads", None)
    if isinstance(heads, int):  # of a scan, each of as many channels as before
        if width * heads % old_width:
            raise InputsError(f"width={width!r} must be a multiple of {old_width // heads}, the channels of one head")
        groups = getattr(config, "n_groups", 1)
        config.hidden_size, config.num_heads = width, width * heads // old_width
        config.n_groups = max(1, groups * width // old_width)
        return
    before, after = (vars(type(config)(hidden_size=size)) for size in (old_width, width))
    for name, derived in after.items():
        if before[name] != derived and getattr(config, name) == before[name]:
            setattr(config, name, derived)
