"""Rewrites at equal cost on the networks of torchvision, timm and transformers.

    python benchmarks/iso_flop.py                       # needs the extra "zoo"
    python benchmarks/iso_flop.py resnet18 vit_b_16     # some of them

For each network and member, the multiply-accumulates before and after: of the maskable
part, which must be equal for iso="layer"; of the whole model with products of
activations and, one an entry, norms, which must be equal for iso="model" or less by
under one weight of the cheapest layer.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import zoo.preload  # noqa: F401 - before torchvision
from shared.result_lines import RESULTS, append
from torch import nn

import sparsefx
from sparsefx.passes import SparseDoped, SparseFactorized, SparseParallel, SparseWide
from sparsefx.passes.costs.graph_costs import Prices
from sparsefx.passes.graphs.owned_graph import own_graph
from sparsefx.passes.iso_flop.record import record_of

ISO = ("layer", "model")
MEMBERS = {
    kind.__name__: kind
    for kind in (SparseWide, SparseParallel, SparseFactorized, SparseDoped)
}


def vision(name: str) -> Callable[[], tuple[nn.Module, Any]]:
    """A torchvision network without weights, at its usual size."""

    def make() -> tuple[nn.Module, Any]:
        import torchvision

        return torchvision.models.get_model(name), (torch.zeros(2, 3, 224, 224),)

    return make


def language(name: str, **sizes: Any) -> Callable[[], tuple[nn.Module, Any]]:
    """A small transformers network from its configuration."""

    def make() -> tuple[nn.Module, Any]:
        import transformers

        config = getattr(transformers, f"{name}Config")(**sizes, use_cache=False)
        kind = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
        model = getattr(transformers, name + kind)(config)
        return model, {"input_ids": torch.zeros(2, 16, dtype=torch.int64)}

    return make


NETWORKS = {
    **{
        name: vision(name)
        for name in (
            "resnet18",
            "resnet34",
            "resnet50",
            "mobilenet_v2",
            "shufflenet_v2_x1_0",
            "densenet121",
            "vit_b_16",
        )
    },
    "gpt2": language("GPT2", n_layer=2, n_embd=192, n_head=3, vocab_size=512),
    "llama": language(
        "Llama",
        num_hidden_layers=2,
        hidden_size=192,
        intermediate_size=512,
        num_attention_heads=6,
        num_key_value_heads=2,
        vocab_size=512,
    ),
}


def check(
    name: str, density: float, ways: list[str], members: list[str]
) -> list[dict[str, Any]]:
    """A row for each way and member; a failure is a row with its reason."""
    model, inputs = NETWORKS[name]()
    found = sparsefx.capture(model, inputs, verify=False)
    prices = Prices.of(own_graph(found.graphs[""])).each()
    rows = []
    for iso, member in itertools.product(ways, members):
        row: dict[str, Any] = {"network": name, "member": member, "iso": iso}
        try:
            record = record_of(
                MEMBERS[member](density=density, iso=iso)(found.graphs[""])
            )
            row |= dict(record.macs)
            short = row["before"] - row["after"]
            if iso == "model":
                parts = ("model", "norms")
                short = sum(row[f"{p}_before"] - row[f"{p}_after"] for p in parts)
            row["exact"] = short == 0
            # where entries cost alike, what is left may be less than any of them
            one = min(prices.get(name, math.inf) for name in record.kept)
            row["met"] = short == 0 or (iso == "model" and 0 < short < one < math.inf)
            row["masked"], row["left"] = len(record.kept), len(record.left)
        except (sparsefx.SparsefxError, KeyError) as error:
            row |= {"exact": False, "met": False, "reason": str(error)}
        rows.append(row)
    return rows


def main() -> None:
    """Checks the networks that are asked for and writes a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--iso", nargs="+", choices=ISO, default=list(ISO))
    parser.add_argument("--members", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    parser.add_argument("--out", type=Path, default=RESULTS / "iso_flop.jsonl")
    given = parser.parse_args()
    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    for name in given.networks:
        for row in check(name, given.density, given.iso, given.members):
            print(row, flush=True)
            append(given.out, row)


if __name__ == "__main__":
    main()
