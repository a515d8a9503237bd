"""The masks of GraNet's authors, from a checkout of VITA-Group/GraNet.

Their file is read, adapted in memory as `CHANGES` says, and left as it is.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

# What is replaced in their `CIFAR/sparselearning/core.py`, and why.
CHANGES = (
    (".cuda()", "", "runs without a GPU"),
    ('"cuda"', '"cpu"', "runs without a GPU"),
    (
        "torch.abs(weight)) > acceptable_score",
        "torch.abs(weight)) >= acceptable_score",
        "keeps the number asked for, not one fewer",
    ),
    ("<= final_iter - 1", "<= final_iter", "the last prune is that to the target"),
)
OPTIONS = {
    "fix": False,
    "rm_first": False,
    "multiplier": 1,
    "init_density": 1.0,
    "final_density": 1.0,
    "init_prune_epoch": 0,
    "sparse_init": "uniform",
}


def package(path: str) -> Any:
    """Their module with the class `Masking`, adapted; it prints nothing."""
    source = Path(path, "CIFAR/sparselearning/core.py").read_text("utf-8")
    for theirs, changed, _ in CHANGES:
        assert theirs in source, f"{theirs!r} is not in their code; another version?"
        source = source.replace(theirs, changed)
    module = types.ModuleType("granet_core")
    module.__dict__["print"] = lambda *_: None
    exec(compile(source, "granet_core", "exec"), module.__dict__)
    return module


def masking(
    path: str,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    options: Mapping[str, Any],
    steps: int,
    update_every: int,
    final_prune: int,
) -> Any:
    """Their `Masking` over a network and its optimizer.

    An epoch has ten steps here, since theirs counts in epochs.
    """
    warnings.filterwarnings("ignore", "Detected call of `lr_scheduler")
    module = package(path)
    given = {
        **OPTIONS,
        "update_frequency": update_every,
        "final_prune_epoch": final_prune // 10,
        **options,
    }
    decay = module.CosineDecay(0.5, steps)
    found = module.Masking(
        optimizer, prune_rate=0.5, prune_rate_decay=decay, growth_mode="gradient",
        redistribution_mode="none", args=types.SimpleNamespace(**given),
        train_loader=range(10),
    )  # fmt: skip
    found.add_module(net)
    return found
