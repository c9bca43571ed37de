"""Small configurations of any model type of transformers, by the names of the fields of configurations.

Three ways, to be tried in turn, as not every type can be made narrow by its fields alone: narrow and shallow, shallow
only, and the default one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from exceptions import DEFAULT, fields_of

LAYERS = 4
WIDTH = 256
HEAD = 64
VOCABULARY = 128
EXPERTS = 4
IMAGE = 64

_LAYERS = re.compile(
    r"^(n_layers?|num_layers|layers|depth|num_blocks|num_block|resampler_depth|[lrx]_layers|n_lm_layers"
    r"|.*num_hidden_layers|.*(encoder|decoder|transformer|attention|fusion|resampler|spatial|temporal|text|conv)_layers"
    r"|num_.*_layers|num_hidden_groups|.*_num_layers)$"
)
_NOT_LAYERS = re.compile(r"nextn|feat_extract|adapter|add_layers|skip|dense_layers|kv_shared|timestamp|residual")
_LAYER_NUMBERS = re.compile(
    r"(index|indexes|indices|idxs|layer_ids|_layers|layers_block_type|extract_layers|attention_blocks)$"
)
_WIDTH = re.compile(
    r"^(hidden_size|d_model|n_embd|embed_dim|dim|hidden_dim|emb_dim|embedding_size|.*_hidden_size|.*_embed_proj_dim"
    r"|.*output_dim|projection_dim|.*embeddings?_size|pooler_output_size|.*_hidden_dim|d_latents|lru_width"
    r"|projection_size|output_proj_dims|project_dim|patch_dim|conv_dim|.*_feat_dim|attention_size)$"
)
_INNER = re.compile(
    r"^(.*intermediate_size|.*ffn_dim|d_ff|n_inner|d_inner|.*ffn_hidden_size|mlp_dim|dff|dim_ff|.*dim_feedforward"
    r"|.*feed_forward_size|.*linear_units|.*feedforward_dim|.*intermediate_dim|ffn_hidden_dim|.*expert_dim)$"
)
_HEADS = re.compile(r"^(num_heads|n_heads?|.*attention_heads|.*_n_heads|.*num_attention_heads|num_.*_heads|.*_heads)$")
_HEAD_SIZE = re.compile(r"^(.*head_dim|d_kv|d_head|dim_head|.*_d_head|.*head_size|rotary_dim|qkv_channels)$")
_EXPERTS = re.compile(
    r"^(num_experts|.*num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts|moe_n.*)$"
)
_RANK = re.compile(r"^(.*lora_rank|time_step_rank|.*_rank)$")
_STATE = re.compile(r"^(state_size|mamba_d_state|ssm_state_size|.*chunk_size|block_size|attention_chunk_size)$")
_VOCABULARY = re.compile(r"(vocab|vocab_size|codebook_size|num_embeddings|num_wordpiece_labels|num_bpe.*|num_char.*)$")
_EXACT = {
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "vocab_size_per_layer_input": VOCABULARY,
    "moe_topk": 2,
    "moe_k": 2,
    "top_k_experts": 2,
    "num_selected_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
    "num_dense_layers": 1,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 48,
    "index_topk": 16,
    "max_source_positions": 32,
    "max_position_embeddings": 512,
    "num_queries": 16,
    "rotary_dim": 32,
    "num_frames": 4,
    "frames_per_clip": 4,
    "attention_window": 16,
    "num_kv_shared_layers": 0,
    "image_seq_length": 16,
    "num_image_tokens": 16,
    "image_seq_len": 16,
}

_MISSING = {
    "prediction_length": 8,
    "num_experts_per_tok": 2,
    "vocab_size": VOCABULARY,
    "n_routed_experts": EXPERTS,
    "n_shared_experts": 1,
    "moe_topk": 2,
    "moe_num_experts": EXPERTS,
}
"""What some types need and have no default of."""


def small_configs(kind: type, width: int = WIDTH) -> Iterator[tuple[str, Any]]:
    """Name of the way and configuration, or the error that making it raises."""
    for way, arguments in (
        ("narrow", lambda: _arguments(kind(), width, HEAD)),
        ("narrow, large heads", lambda: _arguments(kind(), width, 2 * HEAD)),
        ("shallow", lambda: _arguments(kind(), None, HEAD)),
        ("default", dict),
    ):
        try:
            yield way, kind(**arguments())
        except Exception as error:
            yield way, error


def _arguments(config: Any, width: int | None, head: int) -> dict[str, Any]:
    """Keyword arguments that make a smaller configuration of this type; of nested ones the same, recursively."""
    depth = next((value for name, value in vars(config).items() if _is_depth(name, value)), None)
    heads = _heads(config, width, head) if width else {}
    found: dict[str, Any] = {}
    for name, value in vars(config).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            found[name] = _nested(value, width, head)
            continue
        new = heads.get(name, _smaller(name, value, width, depth, head))
        if new != value:
            found[name] = new
    if getattr(config, "vocab_size", 0) is None and getattr(config, "pad_token_id", 0) is None:
        found |= {"pad_token_id": 0, "mask_token_id": 1}
    if not any(name in found for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers")):
        found.pop("layer_types", None)
    if "_heterogeneity_spec" in vars(config):
        found |= {"per_layer_config": {}}  # all layers alike
    for name, value in fields_of(config.model_type, width, head).items() if width else ():
        found[name] = found[name] | value if isinstance(value, dict) and isinstance(found.get(name), dict) else value
    return {name: value for name, value in found.items() if value is not DEFAULT and name != "_heterogeneity_spec"}


def _nested(config: Any, width: int | None, head: int) -> dict[str, Any]:
    """All fields of a nested configuration, made smaller."""
    arguments = _arguments(config, width, head)
    left_out = [name for name, value in fields_of(config.model_type, WIDTH, head).items() if value is DEFAULT]
    fields = {name: value for name, value in config.to_dict().items() if name not in ("per_layer_config", *left_out)}
    if len(fields.get("out_features") or ()) == 1 and "num_hidden_layers" in arguments:  # the last layer is given back
        for name in ("out_features", "out_indices", "stage_names"):
            fields.pop(name, None)
    return {**fields, **arguments}


def _is_depth(name: str, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and bool(_LAYERS.match(name)) and value > LAYERS


def _heads(config: Any, width: int, head: int) -> dict[str, int]:
    """Numbers of heads that keep a head's size, and groups of keys where there are some."""
    count = width // head
    found = {}
    for name, value in vars(config).items():
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if _HEADS.match(name) and value > 1:
            grouped = re.search(r"key_value|kv_heads|num_key_heads|n_groups", name)
            most = vars(config).get("num_attention_heads", value)
            found[name] = count // 2 if grouped and isinstance(most, int) and value < most else count
        elif _HEAD_SIZE.match(name) and name not in _EXACT and value >= 16:
            found[name] = head
    return found


def _smaller(name: str, value: Any, width: int | None, depth: int | None, head: int) -> Any:
    if value is None:
        return _MISSING.get(name)
    if isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, dict):
        return {
            key: _section(entry, head) if key == "mrope_section" and width else entry for key, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [[["global", "local"], 2]] if name == "attention_types" else _smaller_list(name, value, depth)
    if not isinstance(value, int):
        return value
    if name in _EXACT:
        return min(value, _EXACT[name])
    if _LAYERS.match(name) and not _NOT_LAYERS.search(name):
        return min(value, LAYERS)
    if _VOCABULARY.search(name) and "type" not in name:
        return min(value, VOCABULARY)
    if name.endswith(("token_id", "token_index")):
        return _token(name, value)
    if _EXPERTS.match(name):
        return min(value, EXPERTS)
    if name == "image_size":
        return min(value, IMAGE)
    return value if width is None else _narrower(name, value, width)


def _narrower(name: str, value: int, width: int) -> int:
    if _INNER.match(name):
        return value if value < width // 2 else width if "moe" in name or "expert" in name else 2 * width
    if _WIDTH.match(name):
        return value if value < 64 else width
    if _RANK.match(name):
        return min(value, width // 4)
    if _STATE.match(name):
        return min(value, 32)
    return value


def _smaller_list(name: str, value: Any, depth: int | None) -> Any:
    whole = [entry for entry in value if isinstance(entry, int) and not isinstance(entry, bool)]
    if name in ("depths", "num_layers", "blocks_per_stage", "num_block", "block_sizes"):
        return type(value)(min(entry, 2) if isinstance(entry, int) else entry for entry in value)
    if name == "image_size":
        return type(value)(min(entry, IMAGE) for entry in value)
    rising = len(whole) == len(value) and all(a < b for a, b in pairwise(whole))
    if depth and len(value) == depth and not (rising and _LAYER_NUMBERS.search(name)):  # one entry for each layer
        kinds = list(dict.fromkeys(map(str, value)))
        chosen = [next(entry for entry in value if str(entry) == kind) for kind in kinds[:LAYERS]]
        return type(value)([*chosen, *value][:LAYERS] if len(chosen) > 1 else value[:LAYERS])
    if depth and len(whole) == len(value) and value and _LAYER_NUMBERS.search(name) and min(whole) >= 0:
        return type(value)(dict.fromkeys(min(LAYERS - 1, entry * LAYERS // depth) for entry in value))
    return value


def _section(sizes: Any, head: int) -> Any:
    """Parts of a rotation, for heads of a size."""
    if not isinstance(sizes, (list, tuple)) or not sizes:
        return sizes
    total = sum(sizes)
    parts = [max(1, entry * head // 2 // total) for entry in sizes]
    return [head // 2 - sum(parts[1:]), *parts[1:]]


def _token(name: str, value: int) -> int:
    """A number below the size of the vocabulary, another one for each name, and none that random ids have."""
    if value < 8:
        return value
    return VOCABULARY - 1 - sum(map(ord, name)) % 28


def model_class(kind: type) -> type:
    """The class that ``AutoModel`` builds from configurations of this type."""
    from transformers import AutoModel

    found = AutoModel._model_mapping[kind]
    return found[0] if isinstance(found, tuple) else found


def forward_parameters(model: Any) -> dict[str, inspect.Parameter]:
    """Of the forward pass."""
    return dict(inspect.signature(model.forward).parameters)
