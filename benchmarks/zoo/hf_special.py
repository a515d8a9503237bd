"""Hugging Face architectures that want inputs or configurations of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from zoo.hf_configs import NO_LAYERDROP, from_config, ids, image, seq2seq, text

_TOWER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


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
    model = from_config(
        name,
        text_config={**_TOWER, "vocab_size": 99, "max_position_embeddings": 16},
        vision_config={**_TOWER, "image_size": 32, "patch_size": 8},
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


def series(name: str, more: dict[str, Any]) -> tuple[nn.Module, Any]:
    model = from_config(
        name,
        prediction_length=4,
        context_length=8,
        lags_sequence=[1, 2],
        num_time_features=1,
        input_size=1,
        **more,
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

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_TOWER, image_size=16, patch_size=8),
        text_config=LlamaConfig(**_TOWER, vocab_size=99, use_cache=False),
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


def _cache(name: str) -> tuple[nn.Module, Any]:
    """As it comes: with the keys and values that a next call would go on from."""
    return from_config(name, use_cache=True), text()


SPECIAL: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "altclip": lambda: _two_towers("altclip"),
    "audio-spectrogram-transformer": _ast,
    "clip": lambda: _two_towers("clip"),
    "chinese_clip": lambda: _two_towers("chinese_clip"),
    "decision_transformer": _decision,
    "detr": _detr,
    "gpt2-cache": lambda: _cache("gpt2"),
    "gpt2-labels": lambda: _labels("gpt2"),
    "informer": lambda: series("informer", NO_LAYERDROP),
    "llama-cache": lambda: _cache("llama"),
    "llama-labels": lambda: _labels("llama"),
    "llava": _llava,
    "patchtst": _patchtst,
    "perceiver": _perceiver,
    "sam": _sam,
    "siglip": lambda: _two_towers("siglip"),
    "speech_to_text": _speech_to_text,
    "t5-cache": lambda: (from_config("t5", use_cache=True), seq2seq()),
    "time_series_transformer": lambda: series("time_series_transformer", NO_LAYERDROP),
    "vilt": _vilt,
    "whisper": _whisper,
}
