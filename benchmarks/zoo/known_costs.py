"""Totals of three well-known models, against counts made by hand.

    python benchmarks/zoo/known_costs.py        # needs the extra `zoo`

Nothing is downloaded: the models have random weights.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import zoo.preload  # noqa: F401  (makes torchvision importable)

import sparsefx


def resnet_50() -> int:
    """Convolutions of the paper's table, at 224 x 224, and the classifier."""
    total, channels = 112**2 * 49 * 3 * 64, 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width, size = 64 << stage, 56 >> stage
        for block in range(blocks):
            before = size * 2 if stage and block == 0 else size
            total += before**2 * channels * width
            total += size**2 * (9 * width * width + 4 * width * width)
            if block == 0:
                total += size**2 * channels * 4 * width
            channels = 4 * width
    return total + 2048 * 1000


def transformer(tokens: int, dim: int = 768, layers: int = 12) -> int:
    """Projections, both products of attention, and the two layers of the MLP."""
    weights = 4 * dim * dim + 2 * dim * 4 * dim
    return layers * (tokens * weights + 2 * tokens * tokens * dim)


def main() -> None:
    import torchvision
    import transformers

    image = (torch.zeros(1, 3, 224, 224),)
    words = {"input_ids": torch.ones(1, 128, dtype=torch.int64)}
    stem, head = 196 * 3 * 16 * 16 * 768, 768 * 1000
    bert = transformers.BertModel(transformers.BertConfig())
    rows = [
        ("ResNet-50", torchvision.models.resnet50(), image, resnet_50()),
        (
            "ViT-B/16",
            torchvision.models.vit_b_16(),
            image,
            transformer(197) + stem + head,
        ),
        ("BERT-base, 128 tokens", bert, words, transformer(128) + 768 * 768),
    ]
    for name, model, inputs, by_hand in rows:
        found = sparsefx.costs(model.eval(), inputs).totals()["macs"]
        assert found["total"] == by_hand, (name, found, by_hand)
        print(f"{name:22} {found['total']:>14,} MACs, of them {found['fixed']:,} fixed")


if __name__ == "__main__":
    main()
