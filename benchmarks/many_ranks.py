"""What a step of the masks sends where ranks share a model: bytes and messages.

    torchrun --nproc-per-node 2 benchmarks/many_ranks.py

Counts what the solver and the gradient hand to all-reduce on one rank, in steps 3 to 6
of a ramp; numbers do not depend on the machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import sparsefx
from sparsefx.kernels.ranks import Ranks

SIZES = ((4, 256), (4, 1024), (24, 256), (96, 64))
STEPS = 6


def main() -> None:
    """One rank."""
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    sent = [0, 0]
    plain = Ranks._reduced

    def counted(self: Ranks, numbers: Tensor | Sequence[float], how: object) -> Tensor:
        sent[0] += 8 * torch.as_tensor(numbers).numel()
        sent[1] += 1
        return plain(self, numbers, how)

    Ranks._reduced = counted  # type: ignore[method-assign, assignment]
    for layers, width in SIZES:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
        x = torch.randn(4, width)
        sparse = sparsefx.transform(
            model, example_inputs=(x,), budget=0.2, total_steps=2 * STEPS
        )
        fully_shard(sparse)
        optimizer = torch.optim.AdamW(sparse.parameters())
        rows = []
        for _ in range(STEPS):
            sent[:] = [0, 0]
            sparse(x).square().mean().backward()
            after = tuple(sent)
            optimizer.step()
            optimizer.zero_grad()
            sparsefx.step(sparse, optimizer)
            rows.append((*after, sent[0] - after[0], sent[1] - after[1]))
        if dist.get_rank() == 0:
            means = [sum(row[i] for row in rows[2:]) / (STEPS - 2) for i in range(4)]
            print(
                f"{dist.get_world_size()} ranks, {layers} layers, "
                f"{layers * width**2:,} weights: backward {means[0]:.0f} B in "
                f"{means[1]:.0f}, step {means[2]:,.0f} B in {means[3]:.0f}"
            )
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
