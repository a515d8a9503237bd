"""timm: one small model of every file of models (three of the largest left out)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# model: (image size, options that make it small), one a file
MODELS: dict[str, tuple[int, dict[str, Any]]] = {
    "beit_base_patch16_224": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 4, "img_size": 64},
    ),
    "botnet26t_256": (64, {"img_size": 64}),
    "test_byobnet": (64, {"img_size": 64}),
    "cait_xxs36_384": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 64},
    ),
    "coat_lite_tiny": (64, {"serial_depths": (1, 1, 1, 1), "img_size": 64}),
    "convit_tiny": (64, {"depth": 2, "img_size": 64}),
    "convmixer_768_32": (64, {}),
    "test_convnext": (64, {"depths": (1, 1, 1, 1), "dims": (24, 32, 48, 64)}),
    "cpubone_nano": (64, {}),
    "crossvit_tiny_240": (64, {"depth": ((1, 1, 0),)}),
    "csatv2": (64, {}),
    "cs3darknet_s": (64, {}),
    "cspnext_tiny": (64, {"depths": (1, 1, 1, 1)}),
    "davit_tiny": (64, {"depths": (1, 1, 1, 1), "embed_dims": (24, 48, 96, 192)}),
    "deepseek_vit_412m": (
        224,
        {"depth": 2, "embed_dim": 96, "num_heads": 4, "img_size": 224},
    ),
    "deit_tiny_patch16_224": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 4, "img_size": 64},
    ),
    "densenet121": (64, {}),
    "dla46_c": (64, {}),
    "dpn68": (64, {}),
    "edgenext_small": (64, {"depths": (1, 1, 1, 1), "dims": (24, 32, 48, 64)}),
    "efficientformer_l1": (224, {}),
    "efficientformerv2_s0": (224, {}),
    "test_efficientnet": (64, {}),
    "efficientvim_m2": (64, {"depths": (1, 1, 1)}),
    "efficientvit_b0": (64, {"depths": (1, 1, 1)}),
    "efficientvit_m0": (64, {"depth": (1, 1, 1), "img_size": 64}),
    "eva02_tiny_patch14_336": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 4, "img_size": 64},
    ),
    "fasternet_t2": (64, {"depths": (1, 1, 1, 1), "embed_dim": 32}),
    "fastvit_t8": (64, {"layers": (1, 1, 1, 1)}),
    "focalnet_tiny_srf": (64, {}),
    "gcvit_xxtiny": (64, {"img_size": 64}),
    "gemma4_vit_167m": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 64},
    ),
    "ghostnet_050": (64, {}),
    "hardcorenas_a": (64, {}),
    "hgnetv2_b0": (64, {}),
    "hiera_tiny_224": (64, {"stages": (1, 1, 1, 1), "img_size": 64}),
    "sam2_hiera_tiny": (64, {}),
    "hrnet_w18_small": (64, {}),
    "iformer_t": (64, {}),
    "inception_next_atto": (64, {"depths": (1, 1, 1, 1), "dims": (24, 32, 48, 64)}),
    "inception_resnet_v2": (96, {}),
    "inception_v3": (96, {}),
    "inception_v4": (96, {}),
    "lcnetv2_small": (64, {"depths": (1, 1, 1, 1)}),
    "levit_128s": (64, {"img_size": 64}),
    "lowformer_b0": (64, {}),
    "test_mambaout": (64, {"depths": (1, 1, 1)}),
    "test_maxvit": (
        64,
        {"depths": (1, 1, 1, 1), "embed_dim": (32, 64, 96, 128), "img_size": 64},
    ),
    "caformer_s18": (64, {}),
    "gmlp_ti16_224": (64, {"img_size": 64}),
    "tf_mobilenetv3_large_minimal_100": (64, {}),
    "mobilevit_xxs": (64, {"img_size": 64}),
    "mvitv2_tiny": (64, {"img_size": 64}),
    "naflexvit_base_patch16_siglip": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 4, "img_size": 64},
    ),
    "nest_tiny": (64, {"img_size": 64}),
    "nextvit_small": (64, {}),
    "test_nfnet": (64, {"depths": (1, 1, 1)}),
    "pit_xs_224": (64, {"depth": (1, 1, 1), "img_size": 64}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "qwen3_vit_88m": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 4, "img_size": 64},
    ),
    "rdnet_tiny": (64, {}),
    "regnety_002": (64, {}),
    "repghostnet_050": (64, {}),
    "repvit_m1_0": (64, {"depth": (1, 1, 1, 1), "img_size": 64}),
    "res2next50": (64, {"layers": (1, 1, 1, 1)}),
    "resnest14d": (64, {"layers": (1, 1, 1, 1)}),
    "test_resnet": (64, {"layers": (1, 1, 1, 1)}),
    "resnetv2_18": (64, {"layers": (1, 1, 1, 1)}),
    "rexnet_100": (64, {}),
    "selecsls42": (64, {}),
    "legacy_seresnet18": (64, {"layers": (1, 1, 1, 1)}),
    "sequencer2d_s": (64, {"layers": (1, 1, 1, 1), "img_size": 64}),
    "shvit_s2": (64, {"depth": (1, 1, 1)}),
    "skresnet18": (64, {"layers": (1, 1, 1, 1)}),
    "starnet_s050": (64, {"depths": (1, 1, 1)}),
    "swiftformer_xs": (64, {"layers": (1, 1, 1, 1), "img_size": 64}),
    "swin_s3_tiny_224": (64, {"depths": (1, 1, 1, 1), "embed_dim": 32, "img_size": 64}),
    "swinv2_tiny_window8_256": (
        64,
        {
            "depths": (1, 1, 1, 1),
            "embed_dim": 32,
            "img_size": 64,
            "window_size": 4,
            "num_heads": (1, 2, 4, 8),
        },
    ),
    "swinv2_cr_tiny_224": (64, {"depths": (1, 1, 1), "img_size": 64}),
    "tiny_vit_5m_224": (64, {}),
    "tnt_s_patch16_224": (64, {"depth": 2, "embed_dim": 96, "img_size": 64}),
    "tresnet_m": (64, {"layers": (1, 1, 1, 1)}),
    "twins_svt_small": (64, {"depths": (1, 1, 1, 1)}),
    "vgg11": (64, {"mlp_ratio": 0.05}),
    "visformer_tiny": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 4, "img_size": 64},
    ),
    "test_vit": (64, {"depth": 2, "img_size": 64}),
    "vit_tiny_r_s16_p8_384": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 4, "img_size": 64},
    ),
    "test_vit_relpos": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 64},
    ),
    "samvit_base_patch16": (64, {"depth": 2, "embed_dim": 96, "img_size": 64}),
    "vitamin_small_224": (64, {"depth": 2, "img_size": 64}),
    "volo_d2_384": (64, {"img_size": 64}),
    "ese_vovnet19b_slim": (64, {}),
    "xception": (64, {}),
    "xception41": (64, {}),
    "xcit_nano_12_p8_224": (
        64,
        {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 64},
    ),
}


def build(name: str) -> tuple[nn.Module, Any]:
    import timm

    size, options = MODELS[name]
    model = timm.create_model(name, num_classes=10, **options)
    channels = model.pretrained_cfg["input_size"][0]
    return model, (torch.randn(2, channels, size, size),)
