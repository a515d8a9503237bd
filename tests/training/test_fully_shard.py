"""FSDP2 trains as one process does: masks, gradients and weights at every step."""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
)

import sparsefx
from tests.many_ranks import together

STEPS = int(os.environ.get("STEPS", "20"))
EXAMPLES = 12


POLICIES: dict[str, dict[str, Any]] = {
    "blocks": {"freeze_step": STEPS - 3},
    "root": {"budget": {"macs": 0.3, "params": 0.25}},
}


class Block(nn.Module):
    """Ten rows do not divide by 3 or 4."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(F.gelu(self.up(x)))
        return y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.head(x)
        return y


def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


def data(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(EXAMPLES, 8, generator=generator, dtype=torch.float64)
    return x, torch.randn(EXAMPLES, 5, generator=generator, dtype=torch.float64)


def sparse_of(**settings: Any) -> nn.Module:
    settings = {"budget": 0.3, "total_steps": STEPS, **settings}
    return sparsefx.transform(net(), example_inputs=data(0)[:1], **settings)


def whole(tensor: Any) -> Tensor:
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def shard(model: nn.Module, *, blocks: bool = True, **options: Any) -> None:
    if blocks:
        for block in model.get_submodule("blocks").children():
            fully_shard(block, **options)
    fully_shard(model, **options)


def alike(
    one: nn.Module,
    other: Any,
    share: Callable[[nn.Module], None],
    data_mesh: Any = None,
    *,
    all_see: bool = False,
) -> None:
    """The second, spread over ranks, does what the first does by itself.

    Args:
        one: a sparse model.
        other: the same.
        share: spreads it.
        data_mesh: over which the data are spread; all ranks if not given.
        all_see: every rank sees all data.
    """
    world = dist.get_world_size() if data_mesh is None else data_mesh.size()
    rank = dist.get_rank() if data_mesh is None else data_mesh.get_local_rank()
    world, rank = (1, 0) if all_see else (world, rank)
    mine = slice(*(EXAMPLES // world * (rank + i) for i in (0, 1)))
    share(other)
    own = torch.optim.AdamW(one.parameters(), lr=0.02)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.02)
    for number in range(STEPS + 1):
        passes = 1 + number % 2  # every second step has two
        for part in range(passes):
            x, y = data(2 * number + part)
            if number % 4 == 3 and hasattr(other, "set_requires_gradient_sync"):
                other.set_requires_gradient_sync(part == passes - 1)
            F.mse_loss(one(x), y).backward()
            F.mse_loss(other(x[mine]), y[mine]).backward()
        for (name, p), q in zip(
            one.named_parameters(), other.parameters(), strict=True
        ):
            assert p.grad is not None
            torch.testing.assert_close(
                whole(q.grad), p.grad, rtol=1e-9, atol=1e-12,
                msg=lambda text, name=name, number=number: f"{name} {number}: {text}",
            )  # fmt: skip
        own.step(), theirs.step()
        own.zero_grad(), theirs.zero_grad()
        reports = sparsefx.step(one, own), sparsefx.step(other, theirs)
        assert reports[0].hard_cost == reports[1].hard_cost
        masks = sparsefx.masks(other)
        for name, mask in sparsefx.masks(one).items():
            assert torch.equal(whole(masks[name]), mask), (name, number)
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(whole(q), p, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(other(x), one(x), rtol=1e-9, atol=1e-12)
    reports = [sparsefx.report(each).to_dict() for each in (one, other)]
    assert reports[0]["budgets"] == reports[1]["budgets"]
    assert reports[0]["layers"] == reports[1]["layers"]
    plain, gathered = sparsefx.finalize(one), sparsefx.finalize(other)
    assert type(gathered) is Net
    assert not hasattr(gathered, "_sparsefx")
    for p, q in zip(plain.parameters(), gathered.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gathered(x), plain(x), rtol=1e-9, atol=1e-12)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for number in steps:
        x, y = data(number)  # the same on all ranks: their number does not matter
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsefx.step(model, optimizer)


def resumed(folder: str, before: Any, after: Any) -> None:
    """Training that stops on some ranks, and goes on on others, is as if it had not."""
    settings = {"freeze_step": STEPS - 2}
    one = sparse_of(**settings)
    own = torch.optim.AdamW(one.parameters(), lr=0.02)
    train(one, own, range(STEPS))
    if dist.get_rank() in before.mesh:
        other = sparse_of(**settings)
        shard(other, mesh=before)
        theirs = torch.optim.AdamW(other.parameters(), lr=0.02)
        train(other, theirs, range(STEPS // 2))
        found = dict(
            zip(("model", "optimizer"), get_state_dict(other, theirs), strict=True)
        )
        dcp.save(found, checkpoint_id=folder, process_group=before.get_group())
    dist.barrier()
    other = sparse_of(**settings)
    shard(other, mesh=after)
    theirs = torch.optim.AdamW(other.parameters(), lr=0.02)
    model, optimizer = get_state_dict(other, theirs)
    dcp.load({"model": model, "optimizer": optimizer}, checkpoint_id=folder)
    set_state_dict(other, theirs, model_state_dict=model, optim_state_dict=optimizer)
    train(other, theirs, range(STEPS // 2, STEPS))
    masks = sparsefx.masks(other)
    for name, mask in sparsefx.masks(one).items():
        assert torch.equal(whole(masks[name]), mask), name
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(whole(q), p, rtol=1e-9, atol=1e-12)


def in_half_precision(mesh: Any) -> None:
    """Layers compute in bfloat16, masks are those of the weights."""
    one, other = (sparse_of().float() for _ in range(2))
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32
    )
    shard(other, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    x, y = (part.float() for part in data(0))
    F.mse_loss(one(x), y).backward()
    F.mse_loss(other(x.bfloat16()).float(), y).backward()
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert p.grad is not None
        error = (whole(q.grad) - p.grad).norm() / p.grad.norm()
        assert error < 0.03, error
    for model in (one, other):
        torch.optim.SGD(model.parameters(), lr=0.0).step()
        sparsefx.step(model)
    masks = sparsefx.masks(other)
    for name, mask in sparsefx.masks(one).items():
        assert torch.equal(whole(masks[name]), mask), name


def apart() -> None:
    """Ranks that train models of their own, each when it likes."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    rank = dist.get_rank()
    with pytest.raises(sparsefx.MaskError, match="give the process group"):
        sparse_of(mesh="all")
    alone, every = sparse_of(mesh=groups[rank]), sparse_of()
    for number in range(dist.get_world_size()):
        x, y = data(number)
        every.zero_grad()
        F.mse_loss(every(x), y).backward()  # the same data everywhere
        if number == rank:
            F.mse_loss(alone(x), y).backward()
            for p, q in zip(alone.parameters(), every.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-12, atol=1e-15)


def refusals(mesh: Any) -> None:
    """All ranks refuse what one of them finds, and nothing has changed."""
    one = sparse_of()
    shard(one, mesh=mesh)
    before = one.state_dict()
    part = one.get_parameter("head.weight").detach().to_local()
    if dist.get_rank() == 1:
        part[0, 0] = torch.nan
    with pytest.raises(sparsefx.MaskError, match=r"NaN or Inf in head\.weight"):
        sparsefx.step(one)
    for key, value in one.state_dict().items():
        old, new = (whole(each[key]) for each in (before, {key: value}))
        assert key == "head.weight" or torch.equal(old, new), key
    with pytest.raises(sparsefx.MaskError, match=r"torch\.distributed\.checkpoint"):
        sparsefx.save(one, "never.safetensors")
    odd = sparse_of(granularity="block:2x2", fallback="dense")
    with pytest.raises(sparsefx.MaskError, match="granularity 'block:2x2'"):
        shard(odd, mesh=mesh)
    odd = sparse_of(policy="rigl")
    with pytest.raises(sparsefx.MaskError, match="a learner that stores masks"):
        shard(odd, mesh=mesh)
    odd = sparse_of()
    fully_shard(odd.get_submodule("blocks.0"), mesh=mesh)
    with pytest.raises(sparsefx.MaskError, match="fully_shard on the root"):
        sparsefx.step(odd)
    odd = sparse_of()
    with pytest.raises(sparsefx.MaskError, match="FullyShardedDataParallel does so"):
        FullyShardedDataParallel(odd, device_id=torch.device("cpu"))


def on_ranks() -> None:
    """The cases, in every process."""
    warnings.simplefilter("ignore")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name, settings in POLICIES.items():
        print(name, flush=True)
        one, other = sparse_of(**settings), sparse_of(**settings)
        share = functools.partial(shard, blocks=name != "root", mesh=mesh)
        alike(one, other, share)
    in_half_precision(mesh)
    refusals(mesh)
    apart()
    with tempfile.TemporaryDirectory() as own:
        folder = [own]
        dist.broadcast_object_list(folder)
        every = list(range(dist.get_world_size()))
        resumed(folder[0], DeviceMesh("cpu", every[:2]), mesh)
        dist.barrier()


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    together(2, on_ranks, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("world", [3, 4])
def test_more_ranks_too(tmp_path: Path, world: int) -> None:
    together(world, on_ranks, tmp_path)
