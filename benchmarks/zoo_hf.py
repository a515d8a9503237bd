"""Hugging Face architectures at toy size: configuration, inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# One value under every name that configurations use for it; unknown names are left.
_TINY: dict[str, Any] = {
    **dict.fromkeys("hidden_size d_model n_embd dim emb_dim n_embed".split(), 32),
    **dict.fromkeys("embedding_size input_embedding_size word_embed_dim".split(), 32),
    **dict.fromkeys(
        "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers "
        "num_decoder_layers num_encoder_layers".split(),
        2,
    ),
    **dict.fromkeys(
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
        "decoder_attention_heads num_encoder_attention_heads "
        "num_decoder_attention_heads".split(),
        4,
    ),
    "num_key_value_heads": 2,
    "head_dim": 8,
    **dict.fromkeys(
        "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim hidden_dim d_ff "
        "d_inner ffn_hidden_size".split(),
        64,
    ),
    **dict.fromkeys("vocab_size char_vocab_size".split(), 99),
    **dict.fromkeys(
        "max_position_embeddings n_positions max_source_positions "
        "max_target_positions n_ctx".split(),
        64,
    ),
    "d_kv": 8,
    "image_size": 32,
    "patch_size": 8,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}


def ids(length: int = 7) -> torch.Tensor:
    return torch.arange(2 * length).reshape(2, length) * 5 % 90 + 3


def text(**more: Any) -> dict[str, Any]:
    return {"input_ids": ids(), "attention_mask": torch.ones(2, 7).long(), **more}


def seq2seq() -> dict[str, Any]:
    return text(decoder_input_ids=ids(5))


def image(size: int = 32) -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


def speech(length: int = 1600) -> dict[str, Any]:
    return {"input_values": torch.randn(2, length)}


Entry = tuple[Callable[[], dict[str, Any]], dict[str, Any]]
_WAVE = {
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 3,
    "mask_time_prob": 0.0,
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
    "m2m_100": {},
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


def names() -> list[str]:
    return sorted((*TEXT, *SEQ2SEQ, *VISION, *AUDIO, *SPECIAL))


def build(name: str) -> tuple[nn.Module, Any]:
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
        if name in table
    )
    more = table[name]
    model = from_config(name, **more)
    given = inputs()
    if inputs is image:
        size = model.config.to_dict().get("image_size", 32)
        size = size[0] if isinstance(size, (list, tuple)) else size
        given = image(size if isinstance(size, int) and size <= 64 else 32)
    if name in ("bit", "funnel", "canine", "fnet", "rwkv", "mamba", "xlm"):
        given.pop("attention_mask", None)
    return model, given


def from_config(name: str, **more: Any) -> nn.Module:
    from transformers import AutoConfig, AutoModel, FunnelModel

    kind = type(AutoConfig.for_model(name))
    blank = kind()
    derived = {key for key in _TINY if isinstance(getattr(kind, key, None), property)}
    other = {*getattr(kind, "attribute_map", {}), *derived}
    tiny = {
        key: value
        for key, value in _TINY.items()
        if hasattr(blank, key)
        and key not in other
        and not isinstance(getattr(blank, key), (list, tuple))
    }
    made = kind(**{**tiny, **more})
    # the automatic class of this one is a tuple it cannot choose from
    return FunnelModel(made) if name == "funnel" else AutoModel.from_config(made)


def _whisper() -> tuple[nn.Module, Any]:
    model = from_config("whisper", num_mel_bins=8, max_source_positions=20)
    features = torch.randn(2, 8, 40)
    return model, {"input_features": features, "decoder_input_ids": ids(5)}


def _speech_to_text() -> tuple[nn.Module, Any]:
    model = from_config(
        "speech_to_text",
        input_feat_per_channel=8,
        conv_channels=16,
        max_source_positions=40,
    )
    features = torch.randn(2, 24, 8)
    return model, {"input_features": features, "decoder_input_ids": ids(5)}


def _ast() -> tuple[nn.Module, Any]:
    model = from_config(
        "audio-spectrogram-transformer",
        max_length=32,
        num_mel_bins=16,
        patch_size=8,
        frequency_stride=8,
        time_stride=8,
    )
    return model, {"input_values": torch.randn(2, 32, 16)}


def _two_towers(name: str) -> tuple[nn.Module, Any]:
    tower = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    model = from_config(
        name,
        text_config={**tower, "vocab_size": 99, "max_position_embeddings": 16},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    return model, {**text(), **image()}


def _decision() -> tuple[nn.Module, Any]:
    model = from_config(
        "decision_transformer", state_dim=5, act_dim=3, max_ep_len=20, hidden_size=32
    )
    return model, {
        "states": torch.randn(2, 4, 5),
        "actions": torch.randn(2, 4, 3),
        "rewards": torch.randn(2, 4, 1),
        "returns_to_go": torch.randn(2, 4, 1),
        "timesteps": torch.arange(4).repeat(2, 1),
        "attention_mask": torch.ones(2, 4),
    }


def _series(name: str) -> tuple[nn.Module, Any]:
    model = from_config(
        name,
        prediction_length=4,
        context_length=8,
        lags_sequence=[1, 2],
        num_time_features=1,
        input_size=1,
    )
    past = {
        "past_values": torch.rand(2, 10),
        "past_time_features": torch.randn(2, 10, 1),
        "past_observed_mask": torch.ones(2, 10),
    }
    future = {
        "future_values": torch.rand(2, 4),
        "future_time_features": torch.randn(2, 4, 1),
    }
    return model, past | future


def _patchtst() -> tuple[nn.Module, Any]:
    model = from_config(
        "patchtst", num_input_channels=2, context_length=16, patch_length=4
    )
    return model, {"past_values": torch.randn(2, 16, 2)}


def _perceiver() -> tuple[nn.Module, Any]:
    model = from_config(
        "perceiver",
        num_latents=4,
        d_latents=16,
        d_model=16,
        num_blocks=1,
        num_self_attends_per_block=2,
        num_self_attention_heads=2,
        num_cross_attention_heads=2,
    )
    return model, {"inputs": torch.randn(2, 6, 16)}


def _sam() -> tuple[nn.Module, Any]:
    model = from_config(
        "sam",
        vision_config={
            "hidden_size": 16,
            "num_pos_feats": 8,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "window_size": 2,
            "mlp_dim": 32,
            "global_attn_indexes": [1],
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 32,
            "patch_size": 8,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    points = torch.rand(2, 1, 3, 2) * 32
    labels = torch.ones(2, 1, 3, dtype=torch.int64)
    return model, {**image(), "input_points": points, "input_labels": labels}


def _vilt() -> tuple[nn.Module, Any]:
    model = from_config("vilt", max_image_length=-1)
    types = torch.zeros(2, 7, dtype=torch.int64)
    mask = torch.ones(2, 32, 32, dtype=torch.int64)
    return model, {**text(token_type_ids=types), **image(), "pixel_mask": mask}


def _detr() -> tuple[nn.Module, Any]:
    from transformers import DetrConfig, DetrModel, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        backbone=None,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=5,
    )
    return DetrModel(config), image(64)


def _llava() -> tuple[nn.Module, Any]:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    tower = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=16, patch_size=8),
        text_config=LlamaConfig(**tower, vocab_size=99, use_cache=False),
        image_token_id=98,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    tokens = ids(9)
    tokens[:, 1:5] = 98
    return LlavaForConditionalGeneration(config), {"input_ids": tokens, **image(16)}


def _labels(name: str) -> tuple[nn.Module, Any]:
    """A causal language model with its head and its loss."""
    from transformers import AutoModelForCausalLM

    config = from_config(name).config
    return AutoModelForCausalLM.from_config(config), text(labels=ids())


SPECIAL: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "altclip": lambda: _two_towers("altclip"),
    "audio-spectrogram-transformer": _ast,
    "clip": lambda: _two_towers("clip"),
    "chinese_clip": lambda: _two_towers("chinese_clip"),
    "decision_transformer": _decision,
    "detr": _detr,
    "gpt2-labels": lambda: _labels("gpt2"),
    "informer": lambda: _series("informer"),
    "llama-labels": lambda: _labels("llama"),
    "llava": _llava,
    "patchtst": _patchtst,
    "perceiver": _perceiver,
    "sam": _sam,
    "siglip": lambda: _two_towers("siglip"),
    "speech_to_text": _speech_to_text,
    "time_series_transformer": lambda: _series("time_series_transformer"),
    "vilt": _vilt,
    "whisper": _whisper,
}
