"""Fields of single model types that the names of fields do not tell: sizes that must fit each other, and defaults that do not run.

A value that is a mapping is laid over the fields of a nested configuration; ``DEFAULT`` leaves a field to its type.
"""

from __future__ import annotations

from typing import Any

DEFAULT = object()


def fields_of(kind: str, width: int, head: int) -> dict[str, Any]:
    """Of a model type, for a width and a size of heads."""
    heads = width // head
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    pictures = {"base_channels": 32, "num_res_blocks": 1}
    sound = {"downsampling_ratios": [2, 2, 4], "depths": [2, 2, 2, 2], "hidden_size": 64}
    fields: dict[str, dict[str, Any]] = {
        "apertus1p5": {"image_token_offset": 128, "audio_token_offset": 256, "text_config": {"vocab_size": 512}},
        "apertus1p5_vision_tokenizer": pictures,
        "blip-2": {"image_token_index": 127},
        "blt_local_decoder": {"hidden_size_global": width},
        "blt_local_encoder": {"hidden_size_global": width},
        "chameleon": {"vocabulary_map": {"<image>": 127, "IMGIMGBZ": 126}},
        "chameleon_vqgan": pictures,
        "cohere_compass_text": {"rope_parameters": {"full_attention": rope | {"mrope_section": [12, 10, 10]}}},
        "dac": {"encoder_hidden_size": 16, "decoder_hidden_size": 256, "hidden_size": 256},
        "dbrx": {"attn_config": {"clip_qkv": 8.0, "kv_n_heads": 1, "rope_theta": 10000.0}},
        "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]},
        "deepseek_v3": {"head_dim": 16},
        "depth_pro": {"intermediate_hook_ids": [3, 1], "patch_size": 56},
        "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": width},
        "dots3_note_audio_encoder": {"adapter_out_dim": width},
        "dots3_note_vision_encoder": {"adapter_in_dim": width, "adapter_out_dim": width},
        "edgetam_vision_model": {
            "backbone_channel_list": [1024, 512, 256, 64],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        "emu3": {"vocabulary_map": {"<image>": 127, "<|extra_200|>": 126}},
        "emu3_vqgan": pictures,
        "gemma3n_text": {"intermediate_size": [2 * width] * 4},
        "gemma3n_vision": {"architecture": "mobilenetv5_base"},
        "gpt_neo": {"attention_layers": DEFAULT},
        "granite4_vision": {
            "downsample_rate": "2/4",
            "deepstack_layer_map": [[1, 1]],
            "spatial_target_layers": [0, 1, 2, 3],
        },
        "hunyuan_v1_dense": {"head_dim": head},
        "hunyuan_v1_moe": {"head_dim": head},
        "hunyuan_vl_text": {"head_dim": head, "rope_parameters": rope | {"mrope_section": [16, 8, 8]}},
        "hy_v4_vl_text": {"rope_parameters": rope | {"mrope_section": [4, 2, 2]}},
        "instructblip": {"image_token_index": 127},
        "instructblipvideo": {"video_token_index": 127},
        "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
        "longcat_flash": {"head_dim": 16, "expert_ffn_hidden_size": width, "zero_expert_num": 2},
        "lw_detr": {"projector_scale_factors": [1.0]},
        "lw_detr_vit": {"out_indices": [1, 2, 3, 4], "out_features": DEFAULT, "window_block_indices": [0, 1, 2]},
        "mamba2": {"num_heads": 2 * heads},
        "mimi": {"upsample_groups": width, "num_filters": 16},
        "mimi_decoder": {"upsample_groups": width},
        "ministral": {"head_dim": head},
        "mllama_text_model": {"cross_attention_layers": [1, 3]},
        "molmo2_adapter": {"vision_feature_layer": [3, 2], "text_hidden_size": width},
        "moonshine_streaming": {"num_key_value_heads": heads},
        "muse_spark_audio": {"hidden_sizes": [64, 128, 192, 256]},
        "nemotron": {"num_key_value_heads": heads},
        "nemotron_h": {"mamba_num_heads": 2 * heads, "n_groups": 2},
        "omdet-turbo": {
            "backbone_config": {"backbone": "swin_tiny_patch4_window7_224", "img_size": 64},
            "timm_kwargs": {"img_size": 64, "always_partition": True},
        },
        "oneformer": {"backbone_config": {"embed_dim": 32, "hidden_size": 256, "num_heads": [1, 2, 4, 8]}},
        "pe_video_encoder": {"vision_config": {"architecture": "vit_pe_core_tiny_patch16_384"}},
        "perception_lm": {
            "vision_config": {"architecture": "vit_pe_core_tiny_patch16_384", "model_args": {"embed_dim": 192}}
        },
        "pocket_tts_audio_tokenizer_decoder": {"upsample_groups": width},
        "pp_ocrv6_small_det": {
            "layer_list_out_channels": [96, 96, 192, 384],
            "backbone_config": {"out_indices": [1, 2, 3, 4], "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        },
        "qwen4_exp_text": {
            "indexer_n_heads": heads,
            "indexer_kv_heads": 1,
            "indexer_head_dim": head,
            "indexer_budget": 16,
            "indexer_compress_ratio": 4,
        },
        "rf_detr_dinov2": {"out_indices": [1, 2, 3, 4], "out_features": DEFAULT, "num_windows": 1},
        "sam_hq_mask_decoder": {"vit_dim": width},
        "sam_hq_prompt_encoder": {"image_embedding_size": 4},
        "sam_prompt_encoder": {"image_embedding_size": 4},
        "sam2_hiera_det_model": {
            "hidden_size": 96,
            "num_attention_heads": 1,
            "image_size": [64, 64],
            "blocks_per_stage": [1, 2, 3, 2],
            "global_attention_blocks": [4, 5],
        },
        "sam2_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
        "sam3_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
        "seggpt": {
            "image_size": [128, 64],
            "pretrain_image_size": 64,
            "intermediate_hidden_state_indices": [1, 2, 3],
            "merge_index": 0,
        },
        "step3p5": {"sliding_window": 16},
        "swin2sr": {"depths": [2, 2], "num_heads": [6, 6], "embed_dim": 180, "image_size": 16},
        "t5gemma2_text": {"dropout_rate": 0.0},
        "timesfm2_5": {"context_length": 128, "max_position_embeddings": 512},
        "timm_backbone": {"backbone": "resnet18"},
        "vibevoice_acoustic_tokenizer": sound,
        "vibevoice_acoustic_tokenizer_decoder": sound,
        "vibevoice_acoustic_tokenizer_encoder": sound,
        "vits": {"upsample_initial_channel": 128},
        "wavtokenizer_encoder": {"codebook_dim": width},
        "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
        "zamba": {
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "attention_hidden_size": 2 * width,
            "attention_head_dim": 2 * head,
        },
        "zamba2": {
            "num_hidden_layers": 8,  # a value that four layers or more take
            "layers_block_type": ["linear_attention", "hybrid"] * 4,
            "hybrid_layer_ids": [1, 3, 5, 7],
            "n_mamba_heads": 8,
            "mamba_headdim": width // 4,
            "attention_hidden_size": 2 * width,
            "attention_head_dim": 2 * head,
        },
    }
    return fields.get(kind, {})
