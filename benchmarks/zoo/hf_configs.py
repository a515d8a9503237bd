"""Toy configurations by the names that architectures give them, and inputs."""

from __future__ import annotations

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


NO_LAYERDROP: dict[str, Any] = {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0}


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


def from_config(name: str, **more: Any) -> nn.Module:
    from transformers import (
        AutoConfig,
        AutoModel,
        BitForImageClassification,
        FunnelModel,
    )

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
    if name == "funnel":  # its automatic class is a tuple it cannot choose from
        return FunnelModel(made)
    if (
        name == "bit"
    ):  # its convolutions are standardized: a head is all there is to mask
        return BitForImageClassification(made)
    return AutoModel.from_config(made)
