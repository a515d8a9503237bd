"""Hugging Face architectures at toy size: configuration, inputs."""

from __future__ import annotations

from typing import Any

from torch import nn
from zoo.hf_configs import NO_LAYERDROP, from_config, image, seq2seq, speech, text
from zoo.hf_special import SPECIAL, series

# No layer is skipped at random while training, and no span of the input is blanked:
# both are decided on the host. `wav2vec2-default` and its like have the defaults.
_WAVE = {
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 3,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}
_STAGES = {
    "depths": [1, 1],
    "hidden_sizes": [8, 16],
    "embed_dim": 8,
    "embedding_size": 8,
    "num_heads": [2, 4],
    "window_size": 4,
    "patch_size": 4,
    "num_stages": 2,
    "image_size": 32,
}

TEXT: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "bert": {},
    "big_bird": {"attention_type": "original_full"},
    "biogpt": {},
    "bloom": {},
    "camembert": {},
    "canine": {"num_hash_functions": 4, "local_transformer_stride": 8},
    "codegen": {"rotary_dim": 4},
    "cohere": {},
    "convbert": {"embedding_size": 32},
    "ctrl": {"dff": 64},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "data2vec-text": {},
    "distilbert": {"dim": 32, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "ernie": {},
    "falcon": {},
    "fnet": {},
    "funnel": {"block_sizes": [1, 1], "d_head": 8, "num_decoder_layers": 1},
    "gemma": {},
    "gemma2": {},
    "glm": {},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gpt_neox": {},
    "gptj": {"rotary_dim": 4},
    "granite": {},
    "ibert": {},
    "layoutlm": {},
    "llama": {},
    "longformer": {"attention_window": [4, 4]},
    "mamba": {"state_size": 4},
    "megatron-bert": {},
    "mistral": {},
    "mixtral": {},
    "mobilebert": {"true_hidden_size": 32, "intra_bottleneck_size": 32},
    "modernbert": {},
    "mpnet": {},
    "mpt": {"max_seq_len": 64},
    "mra": {},
    "nemotron": {},
    "nystromformer": {"num_landmarks": 7, "segment_means_seq_len": 7},
    "olmo": {},
    "olmo2": {},
    "openai-gpt": {},
    "opt": {"word_embed_proj_dim": 32},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 32},
    "roberta": {},
    "roformer": {"embedding_size": 32},
    "rwkv": {"attention_hidden_size": 32, "context_length": 64},
    "smollm3": {},
    "splinter": {},
    "squeezebert": {"embedding_size": 32},
    "stablelm": {},
    "starcoder2": {},
    "xglm": {"num_layers": 2, "attention_heads": 4},
    "xlm": {"emb_dim": 32},
    "xlnet": {"d_inner": 64},
    "yoso": {"use_expectation": True},
}
SEQ2SEQ: dict[str, dict[str, Any]] = {
    "bart": {},
    "blenderbot": {},
    "led": {"attention_window": [4, 4]},
    "longt5": {"local_radius": 3},
    "m2m_100": NO_LAYERDROP,
    "marian": {},
    "mbart": {},
    "mt5": {},
    "mvp": {},
    "pegasus": {},
    "plbart": {},
    "prophetnet": {},
    "switch_transformers": {},
    "t5": {},
    "umt5": {},
}
VISION: dict[str, dict[str, Any]] = {
    "beit": {"use_relative_position_bias": True},
    "bit": {**_STAGES, "layer_type": "preactivation", "num_groups": 2},
    "convnext": _STAGES,
    "convnextv2": _STAGES,
    "cvt": {
        "embed_dim": [8, 16],
        "num_heads": [1, 2],
        "depth": [1, 2],  # its drop path rates want as many as stages
        "patch_sizes": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [2, 1],
        "mlp_ratio": [2.0, 2.0],
        **{
            key: [value] * 2
            for key, value in {
                "attention_drop_rate": 0.0,
                "drop_rate": 0.0,
                "drop_path_rate": 0.0,
                "qkv_bias": True,
                "cls_token": False,
                "qkv_projection_method": "dw_bn",
                "kernel_qkv": 3,
                "padding_kv": 1,
                "stride_kv": 2,
                "padding_q": 1,
                "stride_q": 1,
            }.items()
        },
    },
    "data2vec-vision": {},
    "deit": {},
    "dinov2": {},
    "dpt": {
        "backbone_out_indices": [0, 1, 1, 1],
        "neck_hidden_sizes": [8] * 4,
        "fusion_hidden_size": 8,
    },
    "focalnet": {
        **_STAGES,
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
        "hidden_sizes": [8, 16],
    },
    "hiera": {
        "image_size": [32, 32],
        "patch_size": [7, 7],
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "mask_unit_size": [2, 2],
        "query_stride": [2, 2],
        "num_query_pool": 2,
    },
    "levit": {
        "image_size": 64,
        "hidden_sizes": [16, 32, 48],
        "num_attention_heads": [1, 2, 3],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "patch_size": 16,
    },
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25, "first_layer_is_expansion": True},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8] * 7},
    "poolformer": {
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
    },
    "pvt": {"hidden_sizes": [8, 8, 20, 16], "depths": [1] * 4, "image_size": 64},
    "pvt_v2": {"hidden_sizes": [8, 8, 20, 16], "depths": [1] * 4, "image_size": 64},
    "regnet": {**_STAGES, "groups_width": 8},
    "resnet": {**_STAGES, "layer_type": "basic"},
    "segformer": {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "image_size": 64},
    "swin": _STAGES,
    "swin2sr": {**_STAGES, "window_size": 4, "patch_size": 1},
    "swinv2": _STAGES,
    "vit": {},
    "vit_msn": {},
    "yolos": {"num_detection_tokens": 4, "image_size": [32, 32]},
}
AUDIO: dict[str, dict[str, Any]] = {
    "data2vec-audio": {**_WAVE, "conv_pos_kernel_size": 3},
    "hubert": _WAVE,
    "sew": {**_WAVE, "squeeze_factor": 1},
    "unispeech": _WAVE,
    "wav2vec2": _WAVE,
    "wavlm": _WAVE,
}


DEFAULTS: dict[str, dict[str, Any]] = {
    "m2m_100": {"encoder_layerdrop": 0.05, "decoder_layerdrop": 0.05},
    "time_series_transformer": {},
    "wav2vec2": {**_WAVE, "layerdrop": 0.1, "mask_time_prob": 0.05},
}


def names() -> list[str]:
    defaults = (f"{name}-default" for name in DEFAULTS)
    return sorted((*TEXT, *SEQ2SEQ, *VISION, *AUDIO, *SPECIAL, *defaults))


def build(name: str) -> tuple[nn.Module, Any]:
    kind, default, _ = name.partition("-default")
    if default and kind in SPECIAL:
        return series(kind, DEFAULTS[kind])
    if name in SPECIAL:
        return SPECIAL[name]()
    table, inputs = next(
        (table, inputs)
        for table, inputs in (
            (TEXT, text),
            (SEQ2SEQ, seq2seq),
            (VISION, image),
            (AUDIO, speech),
        )
        if kind in table
    )
    model = from_config(kind, **(DEFAULTS if default else table)[kind])
    given = inputs()
    if inputs is image:
        size = model.config.to_dict().get("image_size", 32)
        size = size[0] if isinstance(size, (list, tuple)) else size
        given = image(size if isinstance(size, int) and size <= 64 else 32)
    if name in ("bit", "funnel", "canine", "fnet", "rwkv", "mamba", "xlm"):
        given.pop("attention_mask", None)
    return model, given
