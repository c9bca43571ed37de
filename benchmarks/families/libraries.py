"""Models of other libraries, small: each built and run as its library says.

They are no dependencies of the project.  ``pip install --no-deps --target FOLDER`` the libraries that ``library_cases`` names,
with what these import (einops, einx, loguru, ftfy, regex, axial-positional-embedding, product-key-memory, hyper-connections,
torch-einops-utils), and put FOLDER at the end of the path: ``python benchmarks/families libraries --installed FOLDER``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from sources import NotTriedError, Ready
from torch import Tensor, nn


def image(side: int = 32, batch: int = 2) -> Tensor:
    return normal(batch, 3, side, side)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def tokens(length: int = 16, vocabulary: int = 64) -> Tensor:
    return torch.randint(0, vocabulary, (2, length), generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Made:
    """A model by ``module:Class``, what it is made with, and what it runs on."""

    path: str
    settings: Mapping[str, Any]
    inputs: Callable[[], Tensor | dict[str, Any]]

    def __call__(self) -> nn.Module:
        model: nn.Module = named(self.path)(**self.settings)
        return model


def named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


_VIT = {"image_size": 32, "patch_size": 8, "num_classes": 10, "dim": 128, "depth": 4, "heads": 4, "mlp_dim": 256}
_LEVELS = {"num_classes": 10, "dim": (32, 64, 96, 128), "depth": (1, 1, 2, 1)}
_TWINS = {
    f"s{level}_{what}": size
    for level in (1, 2, 3, 4)
    for what, size in (("emb_dim", 32 * level), ("depth", 1 + level // 3))
}
_CVT = {
    f"s{level}_{what}": size
    for level in (1, 2, 3)
    for what, size in (("emb_dim", 32 * level), ("heads", level), ("depth", level))
}
_PLAIN_VITS = (
    "vit:ViT", "simple_vit:SimpleViT", "deepvit:DeepViT", "parallel_vit:ViT", "rvt:RvT", "vit_for_small_dataset:ViT",
    "vit_with_patch_dropout:ViT", "simple_vit_with_value_residual:SimpleViT", "simple_vit_with_register_tokens:SimpleViT",
    "simple_vit_with_qk_norm:SimpleViT", "vit_with_decorr:ViT",
    "simple_flash_attn_vit:SimpleViT", "simple_uvit:SimpleUViT", "simple_vit_orthog_residual_update:SimpleViT",
    "simple_vit_with_relative_proj_pos_bias:SimpleViT", "simple_vit_with_specialized_cls:SimpleViT", "vit_with_keel_post_ln:ViT",
    "vit_5:ViT", "jet_vit:JetViT", "vit_detpool:ViTDetPool", "simple_vit_with_sparse_gating:SimpleViTWithSparseGating",
    "simple_vit_attn_residual:SimpleViTAttnResidual",
)  # fmt: skip


def _vit_pytorch() -> Iterator[tuple[str, Made]]:
    for path in _PLAIN_VITS:
        yield path, Made(f"vit_pytorch.{path}", _VIT, image)
    for path, changes, inputs in (
        ("cait:CaiT", {**_VIT, "cls_depth": 2}, image),
        ("ats_vit:ViT", {**_VIT, "max_tokens_per_depth": (16, 14, 12, 10)}, image),
        ("jumbo_vit:JumboViT", {**_VIT, "num_jumbo_cls": 1, "jumbo_cls_k": 2, "jumbo_ff_mult": 2}, image),
        ("vit_with_patch_merger:ViT", {**_VIT, "patch_merge_layer": 2, "patch_merge_num_tokens": 4}, image),
        ("simple_vit_with_fft:SimpleViT", {**_VIT, "freq_patch_size": 8}, image),
        ("simple_vit_with_hyper_connections:SimpleViT", {**_VIT, "num_residual_streams": 4}, image),
        ("normalized_vit:nViT", {**_VIT, "dim_head": 32}, image),
        ("xcit:XCiT", {**_VIT, "cls_depth": 2, "local_patch_kernel_size": 3}, image),
        ("vit_1d:ViT", {**{k: v for k, v in _VIT.items() if k != "image_size"}, "seq_len": 64}, lambda: normal(2, 3, 64)),
        ("vit_3d:ViT", {**{k: v for k, v in _VIT.items() if k != "patch_size"}, "frames": 8, "image_patch_size": 8,
                        "frame_patch_size": 2}, lambda: normal(2, 3, 8, 32, 32)),
        ("cct:CCT", {"img_size": 32, "embedding_dim": 128, "n_conv_layers": 1, "num_layers": 4, "num_heads": 4, "mlp_ratio": 2.0,
                     "num_classes": 10}, image),
        ("t2t:T2TViT", {"dim": 128, "image_size": 64, "depth": 4, "heads": 4, "mlp_dim": 256, "num_classes": 10,
                        "t2t_layers": ((7, 4), (3, 2))}, lambda: image(64)),
        ("cross_vit:CrossViT", {"image_size": 64, "num_classes": 10, "depth": 2, "sm_dim": 64, "sm_patch_size": 8, "lg_dim": 64,
                                "lg_patch_size": 16}, lambda: image(64)),
        ("pit:PiT", {"image_size": 64, "patch_size": 8, "dim": 64, "num_classes": 10, "depth": (2, 2, 2), "heads": 2,
                     "mlp_dim": 128}, lambda: image(64)),
        ("levit:LeViT", {"image_size": 64, "num_classes": 10, "stages": 3, "dim": (64, 96, 128), "depth": 2, "heads": (2, 2, 2),
                         "mlp_mult": 2}, lambda: image(64)),
        ("cvt:CvT", {"num_classes": 10, **_CVT}, lambda: image(64)),
        ("twins_svt:TwinsSVT", {"num_classes": 10, **_TWINS}, lambda: image(224, 1)),
        ("regionvit:RegionViT", {**_LEVELS, "window_size": 7}, lambda: image(224, 1)),
        ("crossformer:CrossFormer", {**_LEVELS, "global_window_size": (8, 4, 2, 1), "local_window_size": 7}, lambda: image(224, 1)),
        ("scalable_vit:ScalableViT", {**_LEVELS, "dim": 32, "heads": (2,) * 4, "ssa_dim_key": (16,) * 4,
                                      "reduction_factor": (8, 4, 2, 1), "window_size": (64, 32, None, None)},
         lambda: image(256, 1)),
        ("sep_vit:SepViT", {**_LEVELS, "dim": 32, "dim_head": 16, "heads": (1, 2, 4, 8), "window_size": 7}, lambda: image(224, 1)),
        ("max_vit:MaxViT", {**_LEVELS, "dim_conv_stem": 32, "dim": 32, "dim_head": 16, "depth": (1, 1, 2), "window_size": 7},
         lambda: image(224)),
        ("nest:NesT", {"image_size": 64, "patch_size": 4, "dim": 64, "heads": 2, "num_hierarchies": 3, "block_repeats": (1, 1, 4),
                       "num_classes": 10}, lambda: image(64)),
        ("mobile_vit:MobileViT", {"image_size": (256, 256), "dims": [96, 120, 144], "num_classes": 10,
                                  "channels": [16, 32, 48, 48, 64, 64, 80, 80, 96, 96, 384]}, lambda: image(256)),
    ):  # fmt: skip
        yield path, Made(f"vit_pytorch.{path}", changes, inputs)


_DECODERS: dict[str, dict[str, Any]] = {
    "plain": {}, "rotary": {"rotary_pos_emb": True}, "ALiBi": {"alibi_pos_bias": True}, "RMSNorm": {"use_rmsnorm": True},
    "simple RMSNorm": {"use_simple_rmsnorm": True}, "ScaleNorm": {"use_scalenorm": True}, "DyT": {"use_dynamic_tanh": True},
    "Derf": {"use_derf": True}, "GLU": {"ff_glu": True}, "SwiGLU": {"ff_glu": True, "ff_swish": True},
    "ReLU squared": {"ff_relu_squared": True}, "sandwich norm": {"sandwich_norm": True}, "post-norm": {"pre_norm": False},
    "gated residual": {"gate_residual": True}, "scaled residual": {"scale_residual": True}, "macaron": {"macaron": True},
    "talking heads": {"attn_pre_talking_heads": True, "attn_post_talking_heads": True}, "QK norm": {"attn_qk_norm": True},
    "top 4": {"attn_sparse_topk": 4}, "one key": {"attn_one_kv_head": True}, "two keys": {"attn_kv_heads": 2},
    "memory": {"attn_num_mem_kv": 4}, "gated values": {"attn_gate_values": True}, "attention on attention": {"attn_on_attn": True},
    "sigmoid": {"attn_sigmoid": True}, "residual attention": {"residual_attn": True}, "shifted tokens": {"shift_tokens": 1},
    "hyper-connections": {"num_residual_streams": 4}, "skips of a U": {"unet_skips": True},
    "integrated layers": {"integrate_layers": True},
    "value residual": {"add_value_residual": True}, "norm in the MLP": {"ff_post_act_ln": True}, "LASER": {"attn_laser": True},
    "relative positions": {"rel_pos_bias": True}, "dynamic positions": {"dynamic_pos_bias": True},
    "selective": {"attn_selective": True}, "LayerScale": {"use_layerscale": True}, "capped scores": {"attn_softclamp_logits": True},
}  # fmt: skip


def _decoder(settings: dict[str, Any], layers: str = "Decoder") -> nn.Module:
    stack = named(f"x_transformers:{layers}")(**{"dim": 128, "depth": 4, "heads": 4, **settings})
    model: nn.Module = named("x_transformers:TransformerWrapper")(num_tokens=64, max_seq_len=32, attn_layers=stack)
    return model


def _open_clip(name: str) -> nn.Module:
    tower: nn.Module = named("open_clip:create_model")(name).visual
    return tower


def _litgpt(name: str, **changes: Any) -> nn.Module:
    small = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 32, "padded_vocab_size": 64, **changes}
    model: nn.Module = named("litgpt:GPT")(named("litgpt:Config").from_name(name, **small))
    return model


def _torchscale(**settings: Any) -> nn.Module:
    small = {
        "vocab_size": 64,
        "decoder_embed_dim": 128,
        "decoder_attention_heads": 4,
        "decoder_ffn_embed_dim": 256,
        "decoder_layers": 4,
    }
    config = named("torchscale.architecture.config:DecoderConfig")(**small, **settings)
    model: nn.Module = named("torchscale.architecture.decoder:Decoder")(config, embed_tokens=nn.Embedding(64, 128))
    return model


def _xlstm() -> nn.Module:
    layer = named("xlstm:mLSTMLayerConfig")(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=4)
    block = named("xlstm:mLSTMBlockConfig")(mlstm=layer)
    config = named("xlstm:xLSTMBlockStackConfig")(mlstm_block=block, context_length=16, num_blocks=4, embedding_dim=128)
    model: nn.Module = named("xlstm:xLSTMBlockStack")(config)
    return model


_HEADS = {"num_attention_heads": 4, "attention_head_dim": 32, "num_layers": 4}
_LATENT = {"hidden_states": (2, 4, 8, 8), "encoder_hidden_states": (2, 6, 64)}
_UNET = {"sample_size": 16, "block_out_channels": (32, 64), "norm_num_groups": 8}


def _given(*shapes: Mapping[str, tuple[int, ...]], **others: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {**{name: normal(*shape) for group in shapes for name, shape in group.items()}, **others}


def _diffusers() -> Iterator[tuple[str, Made]]:
    times, shares, seen = torch.tensor([5, 7]), torch.tensor([0.5, 0.7]), torch.ones(2, 6, dtype=torch.bool)
    for name, settings, inputs in (
        ("DiTTransformer2DModel", {**_HEADS, "in_channels": 4, "sample_size": 8, "num_embeds_ada_norm": 10},
         _given({"hidden_states": (2, 4, 8, 8)}, timestep=times, class_labels=torch.tensor([1, 2]))),
        ("PixArtTransformer2DModel", {**_HEADS, "in_channels": 4, "out_channels": 8, "cross_attention_dim": 128, "sample_size": 8,
                                      "caption_channels": 64, "use_additional_conditions": False}, _given(_LATENT, timestep=times)),
        ("SD3Transformer2DModel", {**_HEADS, "sample_size": 8, "in_channels": 4, "out_channels": 4, "joint_attention_dim": 64,
                                   "caption_projection_dim": 128, "pooled_projection_dim": 64, "pos_embed_max_size": 16},
         _given(_LATENT, {"pooled_projections": (2, 64)}, timestep=times)),
        ("FluxTransformer2DModel", {**_HEADS, "num_layers": 2, "num_single_layers": 3, "in_channels": 16, "joint_attention_dim": 64,
                                    "pooled_projection_dim": 64, "axes_dims_rope": (8, 12, 12)},
         _given({"hidden_states": (2, 16, 16), "encoder_hidden_states": (2, 6, 64), "pooled_projections": (2, 64)}, timestep=shares,
                img_ids=torch.zeros(16, 3), txt_ids=torch.zeros(6, 3))),
        ("SanaTransformer2DModel", {**_HEADS, "in_channels": 4, "out_channels": 4, "num_cross_attention_heads": 4,
                                    "cross_attention_head_dim": 32, "cross_attention_dim": 128, "caption_channels": 64,
                                    "sample_size": 8}, _given(_LATENT, timestep=times)),
        ("WanTransformer3DModel", {**_HEADS, "patch_size": (1, 2, 2), "in_channels": 4, "out_channels": 4, "text_dim": 64,
                                   "freq_dim": 32, "ffn_dim": 256, "rope_max_seq_len": 32},
         _given({"hidden_states": (1, 4, 2, 8, 8), "encoder_hidden_states": (1, 6, 64)}, timestep=torch.tensor([5]))),
        ("Lumina2Transformer2DModel", {"sample_size": 8, "in_channels": 4, "hidden_size": 128, "num_layers": 4,
                                       "num_refiner_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2,
                                       "axes_dim_rope": (8, 12, 12), "axes_lens": (32, 32, 32), "cap_feat_dim": 64},
         _given(_LATENT, timestep=shares, encoder_attention_mask=seen)),
        ("LTXVideoTransformer3DModel", {**_HEADS, "in_channels": 8, "out_channels": 8, "cross_attention_dim": 128,
                                        "caption_channels": 64},
         _given({"hidden_states": (2, 16, 8), "encoder_hidden_states": (2, 6, 64)}, timestep=times, encoder_attention_mask=seen,
                num_frames=1, height=4, width=4)),
        ("PriorTransformer", {**_HEADS, "embedding_dim": 64, "num_embeddings": 7, "additional_embeddings": 4},
         _given({"hidden_states": (2, 64), "proj_embedding": (2, 64), "encoder_hidden_states": (2, 7, 64)}, timestep=times)),
        ("UNet2DConditionModel", {**_UNET, "layers_per_block": 1, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                                  "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 32,
                                  "attention_head_dim": 8},
         _given({"sample": (2, 4, 16, 16), "encoder_hidden_states": (2, 6, 32)}, timestep=times)),
        ("UNet2DModel", {**_UNET, "layers_per_block": 2, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                         "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}, _given({"sample": (2, 3, 16, 16)}, timestep=times)),
        ("AutoencoderKL", {"block_out_channels": (32, 64), "down_block_types": ("DownEncoderBlock2D",) * 2,
                           "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 8, "layers_per_block": 2}, image),
    ):  # fmt: skip
        yield name, Made(f"diffusers:{name}", settings, inputs)


_LANGUAGE = {"dim": 128, "depth": 4, "heads": 4, "num_tokens": 64}
_RETENTION = {
    "decoder_embed_dim": 128,
    "decoder_value_embed_dim": 256,
    "decoder_retention_heads": 4,
    "decoder_ffn_embed_dim": 256,
}


def _retnet() -> nn.Module:
    config = named("torchscale.architecture.config:RetNetConfig")(vocab_size=64, decoder_layers=4, **_RETENTION)
    model: nn.Module = named("torchscale.architecture.retnet:RetNetDecoder")(config, embed_tokens=nn.Embedding(64, 128))
    return model


Case = tuple[str, str, Callable[[], nn.Module], Callable[[], Any]]


def _others() -> Iterator[Case]:
    for name, settings in _DECODERS.items():
        yield "x-transformers", name, lambda settings=settings: _decoder(settings), tokens  # type: ignore[misc]
    yield "x-transformers", "encoder", lambda: _decoder({}, "Encoder"), tokens
    for name in ("ViT-B-32", "ViT-S-16", "PE-Core-T-16-384", "EVA02-B-16", "ViTamin-S", "RN50", "MobileCLIP-S1"):
        side = 384 if name.endswith("384") else 256 if name.startswith("Mobile") else 224
        yield "open_clip_torch", name, lambda name=name: _open_clip(name), lambda side=side: image(side, 1)  # type: ignore[misc]
    for name, changes in (
        ("pythia-14m", {}),
        ("tiny-llama-1.1b", {"n_query_groups": 2, "intermediate_size": 256}),
        ("Gemma-2-2b", {"n_query_groups": 2, "intermediate_size": 256, "head_size": 32}),
        ("Mixtral-8x7B-v0.1", {"n_query_groups": 2, "intermediate_size": 256}),
        ("falcon-7b", {}),
        ("OLMo-2-1124-7B", {"n_query_groups": 4, "intermediate_size": 256}),
    ):
        yield "litgpt", name, lambda name=name, changes=changes: _litgpt(name, **changes), tokens  # type: ignore[misc]
    yield "torchscale", "DeepNorm", lambda: _torchscale(deepnorm=True), tokens
    yield "torchscale", "Sub-LN", lambda: _torchscale(subln=True), tokens
    yield "torchscale", "RetNet", _retnet, tokens
    yield "xlstm", "mLSTM", _xlstm, lambda: normal(2, 16, 128)


def _classes() -> Iterator[tuple[str, Made]]:
    yield "segment-anything", Made(
        "segment_anything.modeling.image_encoder:ImageEncoderViT",
        {"img_size": 64, "patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4, "out_chans": 32, "use_rel_pos": True,
         "window_size": 3, "global_attn_indexes": (1, 3)}, lambda: image(64),
    )  # fmt: skip
    yield (
        "performer-pytorch",
        Made("performer_pytorch:PerformerLM", {**_LANGUAGE, "max_seq_len": 32}, lambda: tokens(32)),
    )
    yield "linformer", Made("linformer:LinformerLM", {**_LANGUAGE, "seq_len": 32, "k": 8}, lambda: tokens(32))
    yield (
        "reformer-pytorch",
        Made("reformer_pytorch:ReformerLM", {**_LANGUAGE, "max_seq_len": 32, "bucket_size": 8}, lambda: tokens(32)),
    )
    yield "h-transformer-1d", Made(
        "h_transformer_1d:HTransformer1D",
        {**_LANGUAGE, "dim_head": 32, "max_seq_len": 64, "block_size": 16, "causal": True}, lambda: tokens(64),
    )  # fmt: skip
    pictures = {"image_size": 32, "patch_size": 8, "dim": 128, "depth": 4, "num_classes": 10}
    yield "mlp-mixer-pytorch", Made("mlp_mixer_pytorch:MLPMixer", {**pictures, "channels": 3}, image)
    yield "g-mlp-pytorch", Made("g_mlp_pytorch:gMLPVision", pictures, image)
    yield (
        "g-mlp-pytorch",
        Made("g_mlp_pytorch:gMLP", {"num_tokens": 64, "dim": 128, "depth": 4, "seq_len": 16, "causal": True}, tokens),
    )
    rows = {"dim": 128, "dim_head": 32, "heads": 4, "depth": 4}
    yield "conformer", Made("conformer:Conformer", rows, lambda: normal(2, 32, 128))
    yield (
        "nystrom-attention",
        Made("nystrom_attention:Nystromformer", {**rows, "num_landmarks": 8}, lambda: normal(2, 32, 128)),
    )
    latents = {
        "num_latents": 16,
        "latent_dim": 64,
        "cross_heads": 1,
        "latent_heads": 4,
        "cross_dim_head": 32,
        "latent_dim_head": 16,
    }
    yield "perceiver-pytorch", Made(
        "perceiver_pytorch:PerceiverIO", {"dim": 32, "queries_dim": 32, "logits_dim": 10, "depth": 4, **latents},
        lambda: normal(2, 64, 32),
    )  # fmt: skip
    yield "perceiver-pytorch", Made(
        "perceiver_pytorch:Perceiver",
        {"input_channels": 3, "num_freq_bands": 6, "max_freq": 10.0, "depth": 3, "num_classes": 10, "self_per_cross_attn": 2,
         **latents},
        lambda: normal(2, 32, 32, 3),
    )  # fmt: skip


def library_cases() -> Iterator[Case]:
    """Library, name, what builds the model, and what makes its inputs."""
    for name, made in _vit_pytorch():
        yield "vit-pytorch", name.replace(":", "."), made, made.inputs
    for name, made in _diffusers():
        yield "diffusers", name, made, made.inputs
    yield from _others()
    for library, made in _classes():
        yield library, made.path.partition(":")[2], made, made.inputs


def library_model(library: str, build: Callable[[], nn.Module], inputs: Callable[[], Any]) -> Ready:
    """A model that runs.

    Raises:
        NotTriedError: it is not built, or does not run.
    """
    try:
        model, given = build().eval(), inputs()
        parameters = sum(p.numel() for p in model.parameters())
    except Exception as error:
        raise NotTriedError("not built", f"{type(error).__name__}: {error}") from error
    try:
        with torch.no_grad():
            model(**given) if isinstance(given, dict) else model(given)
    except Exception as error:
        raise NotTriedError("not run", f"{type(error).__name__}: {error}") from error
    return Ready(build, given, f"{library} {version(library)}", parameters)
