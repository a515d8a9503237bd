"""Tensor parallelism, alone and under FSDP2, trains as one process does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import sparsefx
from tests.many_ranks import together
from tests.training.test_fully_shard import STEPS, alike, shard, sparse_of

SOFT = {"freeze_step": STEPS - 2}


def parallel(model: nn.Module, mesh: Any) -> None:
    plan = {
        f"blocks.{i}.{name}": how()
        for i in range(2)
        for name, how in (("up", ColwiseParallel), ("down", RowwiseParallel))
    }
    with sparsefx.latent(model):
        parallelize_module(model, mesh, plan)


def on_ranks() -> None:
    """Every rank sees all data."""
    warnings.simplefilter("ignore")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    one, other = sparse_of(**SOFT), sparse_of(**SOFT)
    alike(one, other, lambda model: parallel(model, mesh), all_see=True)


def on_a_grid() -> None:
    """Two ranks share every layer, and twice two the data."""
    warnings.simplefilter("ignore")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "layers"))

    def both(model: nn.Module) -> None:
        parallel(model, mesh["layers"])
        shard(model, mesh=mesh["data"])

    one, other = sparse_of(**SOFT), sparse_of(**SOFT)
    alike(one, other, both, mesh["data"])


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    together(2, on_ranks, tmp_path)


@pytest.mark.slow
def test_a_grid_of_four_ranks(tmp_path: Path) -> None:
    together(4, on_a_grid, tmp_path)
