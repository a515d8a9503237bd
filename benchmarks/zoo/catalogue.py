"""The models of the zoo as ``family/model``; what is not installed is left out."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
import traps
from torch import nn
from zoo import hf_models, timm_models

# torchvision: one a file, with what makes it small
_VISION: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (64, {}),
    "convnext_tiny": (32, {}),
    "densenet121": (64, {}),
    "efficientnet_b0": (64, {}),
    "googlenet": (64, {"aux_logits": True, "init_weights": False}),
    "inception_v3": (96, {"aux_logits": False, "init_weights": False}),
    "mnasnet0_5": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "regnet_x_400mf": (64, {}),
    "resnet18": (64, {}),
    "resnext50_32x4d": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "squeezenet1_1": (64, {}),
    "swin_t": (64, {}),
    "vgg11_bn": (32, {}),
    "fcn_resnet50": (32, {"weights_backbone": None}),
    "deeplabv3_mobilenet_v3_large": (64, {"weights_backbone": None}),
    "lraspp_mobilenet_v3_large": (64, {"weights_backbone": None}),
}
_FEW = dict.fromkeys(
    (
        "rpn_pre_nms_top_n_train",
        "rpn_pre_nms_top_n_test",
        "rpn_post_nms_top_n_train",
        "rpn_post_nms_top_n_test",
        "box_detections_per_img",
    ),
    20,
)
_DETECTION: dict[str, dict[str, Any]] = {
    "ssdlite320_mobilenet_v3_large": {"topk_candidates": 20, "detections_per_img": 20},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"min_size": 64, "max_size": 80, **_FEW},
}
_VIDEO = {"r3d_18": (4, 32), "swin3d_t": (4, 32)}
_MAXVIT = {
    "input_size": (64, 64),
    "stem_channels": 16,
    "partition_size": 2,
    "block_channels": [16, 32, 64, 128],
    "block_layers": [1, 1, 1, 1],
    "head_dim": 16,
    "stochastic_depth_prob": 0.2,
    "num_classes": 10,
}
_BLOCKS = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "layers_per_block": 1,
}
_UNET = {
    **_BLOCKS,
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
_LATENT = {
    **_BLOCKS,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
_DIT = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2}


def _steps() -> torch.Tensor:
    return torch.tensor([3, 7])


def _picture(channels: int = 4) -> torch.Tensor:
    return torch.randn(2, channels, 16, 16)


DIFFUSERS: dict[str, tuple[dict[str, Any], Any]] = {
    "AutoencoderKL": (_LATENT, lambda: (_picture(3),)),
    "VQModel": (_LATENT, lambda: (_picture(3),)),
    "UNet2DModel": (_UNET, lambda: (_picture(3), _steps())),
    "UNet2DConditionModel": (
        {
            **_UNET,
            "cross_attention_dim": 8,
            "attention_head_dim": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        lambda: (_picture(3), _steps(), torch.randn(2, 5, 8)),
    ),
    "ControlNetModel": (
        {
            **_BLOCKS,
            "cross_attention_dim": 8,
            "attention_head_dim": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "conditioning_embedding_out_channels": (8, 8),
        },
        lambda: (
            _picture(),
            _steps(),
            torch.randn(2, 5, 8),
            torch.randn(2, 3, 32, 32),
        ),
    ),
    "DiTTransformer2DModel": (
        {**_DIT, "sample_size": 16, "patch_size": 4, "norm_num_groups": 4},
        lambda: (_picture(), _steps(), torch.tensor([1, 2])),
    ),
    "PixArtTransformer2DModel": (
        {
            **_DIT,
            "sample_size": 16,
            "patch_size": 4,
            "caption_channels": 8,
            "cross_attention_dim": 16,
        },
        lambda: {
            "hidden_states": _picture(),
            "encoder_hidden_states": torch.randn(2, 5, 8),
            "timestep": _steps(),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "SD3Transformer2DModel": (
        {
            **_DIT,
            "sample_size": 16,
            "patch_size": 4,
            "in_channels": 4,
            "joint_attention_dim": 16,
            "caption_projection_dim": 16,
            "pooled_projection_dim": 16,
            "pos_embed_max_size": 16,
        },
        lambda: (_picture(), torch.randn(2, 5, 16), torch.randn(2, 16), _steps()),
    ),
    "PriorTransformer": (
        {**_DIT, "embedding_dim": 16, "num_embeddings": 5},
        lambda: {
            "hidden_states": torch.randn(2, 16),
            "timestep": _steps(),
            "proj_embedding": torch.randn(2, 16),
            "encoder_hidden_states": torch.randn(2, 5, 16),
        },
    ),
    "FluxTransformer2DModel": (
        {
            **_DIT,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "joint_attention_dim": 16,
            "pooled_projection_dim": 16,
            "axes_dims_rope": (4, 4, 8),
            "patch_size": 1,
        },
        lambda: {
            "hidden_states": torch.randn(2, 9, 4),
            "encoder_hidden_states": torch.randn(2, 5, 16),
            "pooled_projections": torch.randn(2, 16),
            "timestep": torch.tensor([0.3, 0.7]),
            "img_ids": torch.zeros(9, 3),
            "txt_ids": torch.zeros(5, 3),
        },
    ),
}


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def names() -> list[str]:
    """All models that can be built here, hand-written traps first."""
    found = [f"traps/{name}" for name in traps.MODELS]
    if _installed("transformers"):
        found += [f"hf/{name}" for name in hf_models.names()]
    if _installed("diffusers"):
        found += [f"diffusers/{name}" for name in DIFFUSERS]
    if _installed("timm"):
        found += [f"timm/{name}" for name in timm_models.MODELS]
    if _installed("torchvision"):
        vision = (*_VISION, "maxvit_t", *_DETECTION, *_VIDEO)
        found += [f"torchvision/{name}" for name in vision]
    return found


def build(name: str) -> tuple[nn.Module, Any]:
    """The model, and its inputs: a tuple of positional or a dict of keyword ones."""
    family, _, model = name.partition("/")
    if family == "traps":
        return traps.MODELS[model]()
    if family == "hf":
        return hf_models.build(model)
    if family == "timm":
        return timm_models.build(model)
    if family == "diffusers":
        import diffusers

        options, inputs = DIFFUSERS[model]
        return getattr(diffusers, model)(**options), inputs()
    return _torchvision(model)


def _torchvision(name: str) -> tuple[nn.Module, Any]:
    import torchvision

    if name in _VIDEO:
        frames, size = _VIDEO[name]
        made = torchvision.models.get_model(name, num_classes=10)
        return made, (torch.randn(2, 3, frames, size, size),)
    if name in _DETECTION:
        options = {"num_classes": 4, "weights_backbone": None, **_DETECTION[name]}
        made = torchvision.models.get_model(name, **options)
        boxes = torch.tensor([[4.0, 4.0, 40.0, 50.0]])
        target = {"boxes": boxes, "labels": torch.tensor([1])}
        pictures = [torch.rand(3, 64, 64), torch.rand(3, 64, 80)]
        return made, (pictures, [dict(target), dict(target)])
    if name == "maxvit_t":
        return torchvision.models.MaxVit(**_MAXVIT), (torch.randn(2, 3, 64, 64),)
    size, options = _VISION[name]
    made = torchvision.models.get_model(name, num_classes=10, **options)
    return made, (torch.randn(2, 3, size, size),)
