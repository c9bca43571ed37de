"""Architectures that people use, small: log J against depth with their own norms and with DyT, without weights and with.

Every family has width 256 (heads of 64 channels) and any depth; text models read 32 random tokens, vision models the two
photographs at 64 pixels.  Two initializations: the model's own, and a stream of unit variance (embeddings of standard
deviation 1) with branches of variance 1 / fan-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from criticality.measurement import measure_ensemble
from criticality.models import initialize_branches, photographs, random_tokens, replace_norms
from criticality.reports import COLOURS, DASHES, MARKERS, STYLE
from criticality.weightless import predict_sampled

DEPTHS = (3, 6, 12, 24, 48, 96)
MEASURED_DEPTH = 12
SEEDS = 6
WIDTH, HEADS, INNER, VOCABULARY = 256, 4, 1024, 256
IMAGE = 64

Build = Callable[[int], nn.Module]


def _vit(depth: int) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=IMAGE, patch_size=16, embed_dim=WIDTH, depth=depth, num_heads=HEADS, num_classes=10
    )


def _mixer(depth: int) -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(img_size=IMAGE, patch_size=16, num_blocks=depth, embed_dim=WIDTH, num_classes=10)


def _convnext(depth: int) -> nn.Module:
    """The blocks of one stage, without the layer scale of 1e-6 that switches all branches off."""
    from timm.models.convnext import ConvNeXt

    model: Any = ConvNeXt(depths=(depth, 1, 1, 1), dims=(WIDTH,) * 4, ls_init_value=None, num_classes=10)
    model.stages = model.stages[:1]
    return cast(nn.Module, model)


def _transformers(kind: str, **fields: Any) -> nn.Module:
    """A model of transformers whose config takes these fields."""
    from transformers import AutoConfig, AutoModel, T5EncoderModel

    config: Any = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **fields)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, None)
    return T5EncoderModel(config) if kind == "t5" else AutoModel.from_config(config)


def _decoder(kind: str, depth: int, **fields: Any) -> nn.Module:
    """One whose config has the fields of Llama's."""
    sizes = {
        "num_hidden_layers": depth,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
    }
    return _transformers(kind, **sizes, **fields)


_EXPERTS = {"num_experts_per_tok": 2}
_DEEPSEEK = {
    "moe_intermediate_size": WIDTH,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 128,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 48,
    "v_head_dim": 64,
}

FAMILIES: dict[str, Build] = {
    "ViT": _vit,
    "ConvNeXt": _convnext,
    "MLP-Mixer": _mixer,
    "BERT": lambda depth: _transformers(
        "bert", num_hidden_layers=depth, hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=INNER
    ),
    "GPT-2": lambda depth: _transformers("gpt2", n_layer=depth, n_embd=WIDTH, n_head=HEADS),
    "T5 encoder": lambda depth: _transformers(
        "t5", num_layers=depth, d_model=WIDTH, num_heads=HEADS, d_kv=WIDTH // HEADS, d_ff=INNER
    ),
    "Llama": partial(_decoder, "llama", head_dim=WIDTH // HEADS),
    "Gemma 2": partial(_decoder, "gemma2", head_dim=WIDTH // HEADS),
    "OLMo 2": partial(_decoder, "olmo2"),
    "Mixtral": partial(_decoder, "mixtral", head_dim=WIDTH // HEADS, num_local_experts=4, **_EXPERTS),
    "DeepSeek-V3": partial(_decoder, "deepseek_v3", **_DEEPSEEK, **_EXPERTS),
    "Mamba": lambda depth: _transformers("mamba", num_hidden_layers=depth, hidden_size=WIDTH),
}

INITIALIZATIONS = {"own": "own initialization", "unit": "unit stream, fan-in"}
NORMS = {"own": "own norms", "dyt": "DyT, α = 1"}

SETTINGS = tuple(
    {"family": family, "norm": norm, "init": init} for family in FAMILIES for init in INITIALIZATIONS for norm in NORMS
)


def inputs_of(family: str) -> Tensor:
    """A batch: photographs or random tokens."""
    if family in ("ViT", "ConvNeXt", "MLP-Mixer"):
        return torch.from_numpy(photographs(IMAGE))
    return torch.from_numpy(random_tokens(2, 32, VOCABULARY, 0))


def build(settings: Mapping[str, str], depth: int) -> nn.Module:
    """The model, its norms replaced and its embeddings of unit variance where that is asked for."""
    model = FAMILIES[settings["family"]](depth).eval()
    if settings["norm"] != "own":
        replace_norms(model, settings["norm"], 1.0)
    if settings["init"] == "unit":
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.num_embeddings == VOCABULARY:
                nn.init.normal_(module.weight)
    return model


def curve(settings: Mapping[str, str], seed: int) -> dict[str, Any]:
    """``log J(0 -> L)`` and the share of the branches in the last variance at every depth, and measured at one."""
    inputs = inputs_of(settings["family"])
    init = "own" if settings["init"] == "own" else "fan-in"
    found: dict[str, Any] = {"log_apjn": [], "log_apjn_se": [], "branch_share": []}
    for depth in DEPTHS:
        profile = predict_sampled(
            partial(build, settings, depth), inputs, range(seed + 100, seed + 100 + SEEDS), init=init
        )
        found["log_apjn"].append(float(profile.log_apjn[0]))
        found["log_apjn_se"].append(float(profile.log_apjn_se[0]))
        found["branch_share"].append(float(1 - profile.q[0] / profile.q[-1]))

    def real(_: int) -> nn.Module:
        model = build(settings, MEASURED_DEPTH)
        if init == "fan-in":
            initialize_branches(model, init, inputs)
        return model

    measured = measure_ensemble(real, inputs, range(seed, seed + SEEDS))
    found["measured"] = float(measured.log_apjn[0])
    found["measured_se"] = float(measured.log_apjn_se[0])
    return found


def draw(curves: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Figure:
    """A panel for each family: norms by colour, initializations by dash."""
    families = list(dict.fromkeys(settings["family"] for settings, _ in curves))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 7.4), layout="constrained")
        panels = figure.subplots(3, 4, sharex=True, sharey=True)
        for panel, family in zip(panels.flat, families, strict=True):
            for settings, values in curves:
                if settings["family"] != family:
                    continue
                norm, init = list(NORMS).index(settings["norm"]), list(INITIALIZATIONS).index(settings["init"])
                colour = COLOURS[norm]
                label = f"{NORMS[settings['norm']]}, {INITIALIZATIONS[settings['init']]}"
                panel.plot(
                    DEPTHS, values["log_apjn"], color=colour, dashes=DASHES[init], lw=1.6, label=f"{label}: predicted"
                )
                panel.errorbar(
                    [MEASURED_DEPTH],
                    [values["measured"]],
                    yerr=[values["measured_se"]],
                    color=colour,
                    marker=MARKERS[2 * norm + init],
                    mfc="white" if init else colour,
                    ms=5,
                    ls="none",
                    capsize=2,
                    label=f"{label}: measured",
                )
            panel.set_title(family, fontsize=10)
            panel.set(xscale="log", yscale="symlog")
            panel.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
            panel.minorticks_off()
        for panel in panels[-1]:
            panel.set_xlabel("depth $L$ (blocks)")
        for panel in panels[:, 0]:
            panel.set_ylabel(r"$\log\,J(0 \to L)$")
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
