"""The gradient is exact under `torch.compile` and data parallel."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.optim import SGD

import sparsefx
from tests.gradient_models import (
    DYNAMO,
    Counter,
    X,
    assert_close,
    gradients,
    loss_of,
    sparse_of,
)


@DYNAMO
def test_compiled_equals_eager_and_compiles_twice() -> None:
    torch._dynamo.reset()
    counter = Counter()
    eager, masked = (sparse_of(total_steps=50, update_every=2) for _ in range(2))
    compiled = torch.compile(masked, fullgraph=True, backend=counter)
    optimizers = [SGD(m.parameters(), lr=0.05) for m in (eager, masked)]
    frozen = []
    for _ in range(50):
        for model in (eager, compiled):
            loss_of(model).backward()
        for a, b in zip(eager.parameters(), masked.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)
        for model, optimizer in zip((eager, compiled), optimizers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            frozen.append(sparsefx.step(model).frozen)
    assert frozen[-1]
    assert not frozen[0]
    assert counter.compiled == 2  # once more when masks stand still
    with torch.no_grad():
        assert_close([eager(X)], [compiled(X)])
    torch._dynamo.reset()


@DYNAMO
@pytest.mark.slow
def test_compiled_by_inductor() -> None:
    torch._dynamo.reset()
    eager, masked = sparse_of(), sparse_of()
    compiled = torch.compile(masked, fullgraph=True)
    for model in (eager, compiled):
        loss_of(model).backward()
    assert_close(gradients(eager), gradients(masked))
    torch._dynamo.reset()


RANKS = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import sparsefx
from tests.gradient_models import X, Y, loss_of, sparse_of

rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", init_method=f"file://{path}", rank=rank, world_size=2
)
mine = slice(3 * rank, 3 * rank + 3)
for view in (True, False):
    sparse = sparse_of(total_steps=4)
    model = DistributedDataParallel(
        sparse, gradient_as_bucket_view=view, bucket_cap_mb=1e-4
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(4):
        if number == 2:  # accumulation: the first part is not reduced
            with model.no_sync():
                (loss_of(model, X[mine], Y[mine]) / 2).backward()
            (loss_of(model, X[mine], Y[mine]) / 2).backward()
        else:
            loss_of(model, X[mine], Y[mine]).backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsefx.step(model)
    torch.save([p.detach() for p in sparse.parameters()], f"{path}.{rank}.{view}")
dist.barrier()  # a rank that leaves early can abort the other's gloo threads
dist.destroy_process_group()
os._exit(0)
"""


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Both ways DDP keeps gradients, with and without accumulation."""
    sparse = sparse_of(total_steps=4)
    optimizer = SGD(sparse.parameters(), lr=0.1)
    for _ in range(4):
        loss_of(sparse).backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsefx.step(sparse)
    path = tmp_path / "store"
    command = [sys.executable, "-c", RANKS]
    ranks = [subprocess.Popen([*command, str(rank), str(path)]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    for name in ("0.True", "1.True", "0.False", "1.False"):
        found = torch.load(f"{path}.{name}", weights_only=True)
        for a, b in zip(found, sparse.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
