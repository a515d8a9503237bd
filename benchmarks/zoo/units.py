"""Gates and shrinks units of public models; compares them, in float64 and float32.

Each model is a tiny configuration of a public family. Every group of units keeps
another number. From the repository's root, with the extra `zoo` installed:

    python benchmarks/zoo/units.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import zoo.preload  # noqa: F401 - before timm and torchvision
from shared.result_lines import append
from torch import Tensor, nn

import sparsefx
from sparsefx.passes import GateUnits, ShrinkUnits, SplitAttention

Made = tuple[nn.Module, Any]


def _timm(name: str, **options: Any) -> Made:
    import timm

    side = options.get("img_size", 32)
    model = timm.create_model(name, num_classes=5, **options)
    return model, (torch.randn(2, 3, side, side),)


def _vit(name: str, **options: Any) -> Made:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2}
    return _timm(name, **sizes, num_heads=4, **options)


def _torchvision_vit() -> Made:
    import torchvision

    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 48, num_classes=4)
    nn.init.normal_(model.heads[0].weight)
    return model, (torch.randn(2, 3, 32, 32),)


def _hf(name: str) -> Made:
    import transformers as hf

    tokens = torch.randint(0, 50, (2, 6))
    plain = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    if name == "vit":
        config = hf.ViTConfig(image_size=32, patch_size=8, **plain)
        return hf.ViTModel(config), {"pixel_values": torch.randn(2, 3, 32, 32)}
    if name == "bert":
        model = hf.BertModel(hf.BertConfig(vocab_size=50, **plain))
        return model, {"input_ids": tokens}
    given = {"input_ids": tokens, "use_cache": False}
    ids = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    if name == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 16}
        return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, **ids)), given
    config = hf.LlamaConfig(num_key_value_heads=2, **plain, **ids)
    return hf.LlamaForCausalLM(config), given


MODELS: dict[str, Callable[[], Made]] = {
    "timm/vit": lambda: _vit("vit_tiny_patch16_224"),
    "timm/vit qk_norm": lambda: _vit("vit_tiny_patch16_224", qk_norm=True),
    "timm/deit": lambda: _vit("deit_tiny_patch16_224"),
    "timm/deit distilled": lambda: _vit("deit_tiny_distilled_patch16_224"),
    "timm/swin": lambda: _timm(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
    ),
    "timm/resnet18": lambda: _timm("resnet18"),
    "timm/mobilenetv3": lambda: _timm("mobilenetv3_small_050"),
    "timm/convnext": lambda: _timm("convnext_atto"),
    "torchvision/vit": _torchvision_vit,
    "hf/vit": lambda: _hf("vit"),
    "hf/bert": lambda: _hf("bert"),
    "hf/gpt2": lambda: _hf("gpt2"),
    "hf/llama": lambda: _hf("llama"),
}


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a model's answer."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def difference(a: Any, b: Any) -> float:
    """The greatest difference, relative to the greatest entry."""
    pairs = zip(tensors(a), tensors(b), strict=True)
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in pairs)


def reloaded(small: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, str]:
    """The model saved and loaded: by pickle, which traces it anew, or by export."""
    with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
        try:
            torch.save(small, file.name)
            return torch.load(file.name, weights_only=False), "pickle"
        except TypeError:  # a method of a constant tensor takes the batch size
            torch.export.save(torch.export.export(small, inputs), file.name)
            return torch.export.load(file.name).module(), "export"


def compare(made: Made, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    """Gates a model at random, shrinks it, and compares the three."""
    model, inputs = made
    model = model.to(dtype).eval()
    items = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    cast = {
        k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v
        for k, v in items
    }
    given = cast if isinstance(inputs, dict) else tuple(cast.values())
    leaves = [v for v in cast.values() if isinstance(v, Tensor)]
    found = sparsefx.capture(model, given)
    graph = SplitAttention()(found.graphs.get("") or found.graphs[":eval"])
    with torch.no_grad():
        before = graph(*leaves)
        GateUnits()(graph)
        open_gates = difference(before, graph(*leaves))
        gates, drawn = (
            graph.get_submodule("_units"),
            torch.Generator().manual_seed(seed),
        )
        for index, name in enumerate(gates.names):
            size = len(gates[name])
            keep = torch.zeros(size)
            count = max(1, size * (index % 3 + 1) // 4)
            keep[torch.randperm(size, generator=drawn)[:count]] = 1
            gates.set(name, keep)
        small = ShrinkUnits()(graph)
        closed = graph(*leaves)
        cut = difference(closed, small(*leaves))
        again, way = reloaded(small, tuple(leaves))
        loaded = difference(closed, again(*leaves))
    return {
        "groups": len(gates.names),
        "gates at 1": open_gates,
        "moved": difference(before, closed),
        "cut": cut,
        f"loaded ({way})": loaded,
        "params": sum(p.numel() for p in small.parameters())
        / sum(p.numel() for p in model.parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="a glob of names, such as 'hf/*'")
    parser.add_argument("--out", type=Path, help="gets a line a run")
    options = parser.parse_args()
    for name, make in MODELS.items():
        if not fnmatchcase(name, options.only):
            continue
        for dtype in (torch.float64, torch.float32):
            torch.manual_seed(0)
            start = time.perf_counter()
            row = compare(make(), dtype, 0)
            cells = [f"{k} {v:.3g}" for k, v in row.items()]
            spent = f"{time.perf_counter() - start:.1f} s"
            kind = str(dtype).removeprefix("torch.")
            print(name, kind, *cells, spent, sep="  ", flush=True)
            if options.out:
                append(options.out, {"model": name, "dtype": kind, **row})


if __name__ == "__main__":
    main()
