"""Random inputs for any model of transformers, tried in turn until it runs.

Names of inputs come from the signature of the forward pass and from ``main_input_name``; shapes from the fields of
the configuration.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from configs import forward_parameters
from torch import Tensor, nn

BATCH = 2
TOKENS = 16
MOST_TRIES = 40
MOST_SHAPES = 12
"""Of one set of names."""


def running_inputs(model: nn.Module) -> dict[str, Tensor]:
    """The first inputs with which a model runs.

    Raises:
        RuntimeError: none; the message is that of the first try.
    """
    first: Exception | None = None
    parameters = forward_parameters(model)
    for inputs in itertools.islice(candidates(model), MOST_TRIES):
        try:
            with torch.no_grad():
                model(**inputs, **({"use_cache": False} if "use_cache" in parameters else {}))
            return inputs
        except Exception as error:
            first = first or error
    if first is None:
        raise RuntimeError(f"does not run on random inputs: takes {', '.join(list(parameters)[:6])}")
    said = (str(first).strip().splitlines() or [""])[0][:200]
    raise RuntimeError(f"does not run on random inputs: {type(first).__name__}: {said}")


def candidates(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inputs to be tried: the fewest names first, of each name every shape."""
    parameters = forward_parameters(model)
    config = model.config
    known_forms = dict(_MAKERS)
    if any(
        name in parameters
        for name in ("grid_thw", "image_grid_thw", "pixel_position_ids", "spatial_shapes", "target_sizes")
    ):
        known_forms |= dict.fromkeys(("hidden_states", "pixel_values"), _patches)
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    main = str(getattr(model, "main_input_name", "input_ids"))
    known = [name for name in parameters if name in _MAKERS]
    usual = [*([main] if main in parameters else []), *(["noise_sequence"] if "noise_sequence" in parameters else [])]
    start = [name for name in dict.fromkeys([*needed, *usual]) if name in _MAKERS]
    sets: list[list[str]] = []
    decoder = [name for name in ("decoder_input_ids", "decoder_input_values") if name in known]
    for names in (start, ["input_ids"], [*start, *decoder[:1]], [*start, "input_ids"], [*start, "pixel_values"]):
        sets.append([name for name in dict.fromkeys(names) if name in known])
    together = [[name for name in names if name in known] for names in _TOGETHER if known and set(names) & set(known)]
    sets += [[*start, *names] for names in together] + [[*start, name] for name in known] + [known]
    seen: list[set[str]] = []
    for names in sets:
        if not names or set(names) in seen:
            continue
        seen.append(set(names))
        forms = [known_forms[name](config) for name in names]
        alike = zip(*forms, strict=False) if len(forms) > 1 else ()
        for makers in itertools.islice(itertools.chain(alike, itertools.product(*forms)), MOST_SHAPES):
            yield {name: make() for name, make in zip(names, makers, strict=True)}


Make = Callable[[], Tensor]


def _normal(*shape: int) -> Make:
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1]))


def _whole(low: int, high: int, *shape: int) -> Make:
    return lambda: torch.randint(low, max(high, low + 1), shape, generator=torch.Generator().manual_seed(sum(shape)))


def field(config: Any, *names: str, default: Any = None) -> Any:
    """The first of these fields that a configuration has, or one of those nested in it, that of the text last."""
    nested = [value for value in vars(config).values() if hasattr(value, "to_dict")]
    for name in names:
        for one in (config, *nested):
            value = getattr(one, name, None)
            if value is not None:
                return value
    return default


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, dict):
        return int(value.get("height", 64)), int(value.get("width", 64))
    if isinstance(value, (list, tuple)):
        return (int(value[0]), int(value[-1])) if value else (64, 64)
    return int(value), int(value)


def _ids(config: Any) -> list[Make]:
    most = field(config, "vocab_size", "text_vocab_size", default=128)
    books = field(config, "num_codebooks", "num_channels", default=None)
    most = min(most if isinstance(most, int) else 128, 96)
    queries, token = field(config, "num_query_tokens"), field(config, "image_token_index", "image_token_id")
    if token is None and isinstance(queries, int):
        queries, token = queries * _frames(config), field(config, "video_token_index", "video_token_id")
    if isinstance(queries, int) and isinstance(token, int):  # as many places as a picture or a video has
        return [lambda: torch.cat([torch.full((BATCH, queries), token), _whole(8, most, BATCH, TOKENS)()], 1)]
    shapes = [(BATCH, TOKENS)] + ([(BATCH, TOKENS, books), (BATCH, books, TOKENS)] if isinstance(books, int) else [])
    return [_whole(8, most, *shape) for shape in shapes] + [_whole(8, most, BATCH * 4, TOKENS)]


def _frames(config: Any) -> int:
    found = field(config, "num_frames", "frames_per_clip", default=4)
    return found if isinstance(found, int) else 4


def _videos(config: Any) -> list[Make]:
    """Pictures with the videos first."""
    return sorted(_pictures(config), key=lambda make: make().ndim != 5)


def _pictures(config: Any) -> list[Make]:
    channels = field(config, "num_channels", "in_channels", "in_chans", "num_channels_in", default=3)
    channels = channels if isinstance(channels, int) else 3
    sizes = [
        _pair(field(config, "image_size", "input_size", "crop_size", default=64)),
        (64, 64),
        (128, 128),
        (224, 224),
        (32, 32),
    ]
    frames, sizes = _frames(config), list(dict.fromkeys(sizes))
    plain = [_normal(BATCH, channels, *size) for size in sizes]
    video = [_normal(BATCH, frames, channels, *size) for size in sizes[:2]]
    pair = _normal(1, 2, channels, 64, 64)
    return [*plain[:2], video[0], pair, *plain[2:], *video[1:], _normal(BATCH, 1, channels, *sizes[0])]


def _features(config: Any) -> list[Make]:
    bands = field(
        config,
        "num_mel_bins",
        "input_feat_per_channel",
        "feature_size",
        "n_mels",
        "feature_projection_input_dim",
        default=80,
    )
    positions = field(config, "max_source_positions", default=32)
    bands = bands if isinstance(bands, int) else 80
    return [
        _normal(BATCH, bands, 2 * (positions if isinstance(positions, int) else 32)),
        _normal(BATCH, 64, bands * field(config, "num_stacked_frames", default=1)),
        _normal(BATCH, 64, 128),
        _normal(BATCH, 256, 4 * bands),
        _normal(BATCH, bands, 400),
        _normal(BATCH, bands, 3000),
        _normal(BATCH, 1, 64, bands),
        _normal(BATCH, 1, 1024, bands),
    ]


def _sound(config: Any) -> list[Make]:
    bands = field(config, "num_mel_bins", default=128)
    longest = field(config, "max_length", default=128)
    return [
        _normal(BATCH, 4000),
        _normal(BATCH, 1, 4000),
        _normal(BATCH, longest if isinstance(longest, int) else 128, bands if isinstance(bands, int) else 128),
        _whole(8, 96, BATCH, TOKENS),
        _normal(BATCH, 3840),
        _normal(BATCH, TOKENS, field(config, "hidden_size", default=256)),
        _normal(BATCH, 16000),
        _normal(BATCH, 1, 16000),
    ]


def _boxes(config: Any) -> list[Make]:
    corners = _whole(0, 100, BATCH, TOKENS, 2)
    return [
        lambda: torch.cat([corners(), corners() + 20], -1),
        lambda: torch.cat([corners(), corners() + 20], -1).float() / 200,
        lambda: (torch.cat([corners(), corners() + 20], -1).float() / 200)[..., [0, 1, 2, 1, 2, 3, 0, 3]],
    ]


def _embeddings(*fields: str) -> Callable[[Any], list[Make]]:
    def make(config: Any) -> list[Make]:
        size = field(config, *fields, "hidden_size", "d_model", default=256)
        return [_normal(BATCH, TOKENS, size if isinstance(size, int) else 256)]

    return make


def _hidden(config: Any) -> list[Make]:
    size = field(config, "hidden_size", default=256)
    return [*_embeddings()(config), _normal(BATCH, 1, 1600), _normal(BATCH, size, TOKENS)]


def _series(config: Any) -> list[Make]:
    length = field(config, "context_length", default=32)
    channels = field(config, "num_input_channels", "input_size", default=1)
    series = [_normal(BATCH, length, channels), _normal(BATCH, length)]
    return [_normal(BATCH, _past(config)), *series] if hasattr(config, "lags_sequence") else series


def _patches(config: Any) -> list[Make]:
    """Flattened patches of ``_grid``."""
    config = getattr(config, "vision_config", config)
    side = field(config, "patch_size", default=14)
    channels = field(config, "in_channels", "num_channels", "in_chans", default=3)
    size = channels * side * side
    frames = field(config, "temporal_patch_size", "patch_temporal", default=1)
    return [
        _normal(BATCH * TOKENS, size * frames),
        _normal(BATCH * TOKENS, channels, side, side),
        _normal(BATCH * TOKENS, size),
        _normal(BATCH, TOKENS, size),
        _normal(1, BATCH * TOKENS, size),
    ]


def _grid(config: Any) -> list[Make]:
    return [lambda: torch.tensor([[1, 4, 4]] * BATCH), lambda: torch.tensor([[4, 4]] * BATCH)]


def _time_features(config: Any) -> list[Make]:
    return [_normal(BATCH, _past(config), field(config, "num_time_features", default=0))]


def _past(config: Any) -> int:
    lags = field(config, "lags_sequence", default=[0])
    return int((field(config, "context_length", "prediction_length", default=8) or 8) + max(lags))


def _transitions(name: str) -> Callable[[Any], list[Make]]:
    return lambda config: [_normal(BATCH, TOKENS, field(config, name, default=1))]


def _steps(config: Any) -> list[Make]:
    return [lambda: torch.arange(TOKENS).repeat(BATCH, 1)]


def _zeros(*shape: int) -> Make:
    return lambda: torch.zeros(shape, dtype=torch.long)


def _ones_of(*shape: int) -> Make:
    return lambda: torch.ones(shape, dtype=torch.long)


def _ones(config: Any) -> list[Make]:
    return [lambda: torch.ones(BATCH, TOKENS, dtype=torch.long)]


_MAKERS: dict[str, Callable[[Any], list[Make]]] = {
    **dict.fromkeys(("input_ids", "decoder_input_ids", "text_input_ids", "byte_input_ids"), _ids),
    **dict.fromkeys(("pixel_values", "pixel_values_images", "images"), _pictures),
    "pixel_values_videos": _videos,
    "input_features": _features,
    **dict.fromkeys(("input_values", "audio_values", "decoder_input_values"), _sound),
    "bbox": _boxes,
    "hidden_states": _hidden,
    **dict.fromkeys(("inputs_embeds", "encoder_hidden_states", "query_embeds"), _embeddings()),
    "noise_embeds": _embeddings(),
    "context_hidden_states": lambda config: [
        _normal(BATCH, TOKENS, times * field(config, "hidden_size", default=256)) for times in (1, 2, 3, 4)
    ],
    "action_embeds": _embeddings("dit_hidden_size"),
    "latents": lambda config: [
        _normal(BATCH, field(config, "hidden_size", default=256), TOKENS),
        _normal(BATCH, TOKENS, field(config, "hidden_size", default=256)),
    ],
    "inputs": _embeddings("d_model"),
    "noise_sequence": lambda config: [_normal(BATCH, 64, field(config, "model_in_channels", default=64))],
    "visual_feats": _embeddings("visual_feat_dim"),
    "past_values": _series,
    "past_time_features": _time_features,
    "past_observed_mask": lambda config: [lambda: torch.ones(BATCH, _past(config))],
    **dict.fromkeys(("grid_thw", "image_grid_thw"), _grid),
    "states": _transitions("state_dim"),
    "actions": _transitions("act_dim"),
    **dict.fromkeys(("rewards", "returns_to_go"), _transitions("")),
    "timesteps": _steps,
    "past_values_padding": lambda config: [_zeros(BATCH, field(config, "context_length", default=512))],
    "freq": lambda config: [_zeros(BATCH, 1)],
    "merge_sizes": lambda config: [lambda: torch.ones(BATCH, dtype=torch.long)],
    "target_sizes": lambda config: [lambda: torch.tensor([[4, 4]] * BATCH)],
    "spatial_shapes": lambda config: [lambda: torch.tensor([[4, 4]] * BATCH)],
    "pixel_attention_mask": _ones,
    "audio_mel": lambda config: [_normal(BATCH, 64, field(config, "input_feat_size", default=128))],
    "audio_mel_mask": lambda config: [lambda: torch.zeros(BATCH, 64, dtype=torch.bool)],
    "prompt_pixel_values": _pictures,
    "prompt_masks": _pictures,
    **dict.fromkeys(("classes_input_ids", "tasks_input_ids", "task_inputs"), _ids),
    **dict.fromkeys(("classes_attention_mask", "tasks_attention_mask"), lambda config: _ones(config)),
    "classes_structure": lambda config: [lambda: torch.ones(BATCH, dtype=torch.long)],
    "qformer_input_ids": _ids,
    "visual_pos": lambda config: [lambda: torch.rand(BATCH, TOKENS, 4)],
    "input_features_mask": lambda config: [
        *(_ones_of(BATCH, length) for length in (64, 64, 64, 256, 400)),
        lambda: torch.ones(BATCH, 64, dtype=torch.bool),
    ],
    "pixel_position_ids": lambda config: [
        lambda: torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat(BATCH, 1, 1)
    ],
    "attention_mask": _ones,
}

_TOGETHER = (
    ("visual_feats", "visual_pos"),
    ("input_ids", "bbox", "decoder_input_ids"),
    ("input_ids", "pixel_values", "pixel_attention_mask", "spatial_shapes"),
    ("input_ids", "pixel_values", "attention_mask"),
    ("input_ids", "decoder_input_ids"),
)
"""Inputs that are given together or not at all."""
