"""Trains a sparse model that several ranks share (FSDP2), under one exact budget.

    torchrun --nproc-per-node 2 examples/fsdp.py --steps 40

Weights, gradients, optimizer state and masks lie in parts on the ranks. What a step of
the masks sends does not grow with the model. Runs on CPUs (gloo) and GPUs (nccl).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard

import sparsefx


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return y


def main() -> None:
    """One rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--budget", type=float, default=0.1)
    parser.add_argument("--checkpoint", type=Path, help="a folder to save to")
    given = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    device = torch.device("cpu")
    if on_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank = dist.get_rank()

    torch.manual_seed(0)  # all ranks begin with the same weights
    blocks = [Block(given.width) for _ in range(4)]
    model = nn.Sequential(
        nn.Linear(32, given.width), *blocks, nn.Linear(given.width, 8)
    )
    sparse = sparsefx.transform(
        model.to(device),
        example_inputs=(torch.randn(4, 32, device=device),),
        budget={"macs": given.budget},
        total_steps=given.steps,
    )
    for block in sparse:  # transform first, then shard: each block, then the root
        if isinstance(block, Block):
            fully_shard(block)
    fully_shard(sparse)
    optimizer = torch.optim.AdamW(sparse.parameters(), lr=3e-3)

    torch.manual_seed(1 + rank)  # every rank sees other data
    target = torch.linspace(-1, 1, 32 * 8, device=device).view(32, 8)
    for number in range(given.steps):
        x = torch.randn(64, 32, device=device)
        loss = F.mse_loss(sparse(x), torch.tanh(x @ target))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        info = sparsefx.step(sparse, optimizer)
        if rank == 0 and number % 10 == 9:
            print(f"loss {loss.item():.4f}  {info}")

    if given.checkpoint:
        state, optimizer_state = get_state_dict(sparse, optimizer)
        dcp.save(
            {"model": state, "optimizer": optimizer_state},
            checkpoint_id=given.checkpoint,
        )
    report = sparsefx.report(sparse)  # on all ranks: counts are added up
    dense = sparsefx.finalize(sparse)  # gathers: the plain model on every rank
    if rank == 0:
        print(report)
        print(type(dense).__name__, "budget met:", report.to_dict()["budgets"])
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
