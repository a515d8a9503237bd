"""Masks of weights that ranks share are those of one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsefx.kernels.bits import empty_bits, unpack
from sparsefx.kernels.ranks import Ranks
from sparsefx.kernels.shards import Box, Shard, hard_masks
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.request import Request, Warm
from sparsefx.solver.solution import Solution
from sparsefx.solver.solve import solve
from tests.many_ranks import together

SENT = [0]


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 4),
    st.integers(0, 4),
    st.data(),
)
def test_a_box_counts_its_entries(
    rows: int, columns: int, top: int, left: int, data: st.DataObject
) -> None:
    top, left = min(top, rows), min(left, columns)
    shape = (
        data.draw(st.integers(0, rows - top)),
        data.draw(st.integers(0, columns - left)),
    )
    box = Box((rows, columns), shape, (top, left))
    whole = torch.arange(rows * columns).view(rows, columns)
    part = whole[top : top + shape[0], left : left + shape[1]].reshape(-1)
    assert torch.equal(box.indices(torch.arange(len(part))), part)
    for last in range(-1, rows * columns):
        assert box.upto(last) == int((part <= last).sum())


def cut(weight: Tensor, dim: int, ranks: Ranks, counted: bool = True) -> Shard:
    """This rank's part of a weight, cut along a dimension; -1 leaves it whole."""
    rank, world = dist.get_rank(), dist.get_world_size()
    shape, offset = list(weight.shape), [0] * weight.ndim
    if dim >= 0:
        size = -(-weight.shape[dim] // world)
        offset[dim] = min(size * rank, weight.shape[dim])
        shape[dim] = min(size, weight.shape[dim] - offset[dim])
    part = weight
    for d, (start, length) in enumerate(zip(offset, shape, strict=True)):
        part = part.narrow(d, start, length)
    box = Box(tuple(weight.shape), tuple(shape), tuple(offset))
    return Shard(part.reshape(-1), box, ranks, dim >= 0 or rank == 0)


def masks(weight: Tensor, threshold: float, last: int) -> Tensor:
    place = torch.arange(weight.numel()).view(weight.shape)
    a = weight.abs()
    return (a > threshold) | ((a == threshold) & (place <= last))


def check(
    weights: list[Tensor], request: Request, warm: Warm | None = None
) -> Solution:
    """One process and all ranks find the same; what the ranks found."""
    ranks = Ranks(None, torch.device("cpu"))
    shards = [cut(w, i % 3 - 1, ranks) for i, w in enumerate(weights)]
    one = solve(request, warm)
    values = [cast(Tensor, shard) for shard in shards]
    SENT[0] = 0
    found = solve(replace(request, values=values), warm)
    assert found.counts == one.counts, request.bounds
    torch.testing.assert_close(found.soft_costs, one.soft_costs, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.dual, one.dual, rtol=1e-4, atol=1e-6)
    into = [empty_bits(shard.local.numel()) for shard in shards]
    rules = [x.threshold for x in found.sites], [x.last for x in found.sites]
    counts, changed = hard_masks(shards, *rules, into)
    assert counts == changed == one.counts
    for weight, shard, mine, theirs, bits in zip(
        weights, shards, found.sites, one.sites, into, strict=True
    ):
        whole = masks(weight, theirs.threshold, theirs.last)
        assert torch.equal(masks(weight, mine.threshold, mine.last), whole)
        assert mine.group == theirs.group
        torch.testing.assert_close(mine.spread, theirs.spread, rtol=1e-4, atol=1e-6)
        kept = unpack(bits, torch.Size(shard.box.shape))
        for d, start in enumerate(shard.box.offset):
            whole = whole.narrow(d, start, shard.box.shape[d])
        assert torch.equal(kept, whole)
    return found


def request_of(
    weights: list[Tensor],
    budget: float,
    bounds: list[tuple[float, float]] | None = None,
    further: float | None = None,
) -> Request:
    prices = tuple(1.0 + i % 3 for i in range(len(weights)))
    sizes = [w.numel() for w in weights]
    total = sum(p * n for p, n in zip(prices, sizes, strict=True))
    costs, amounts = [prices], [budget * total]
    if further is not None:
        costs.append(tuple(3.0 - i % 3 for i in range(len(weights))))
        amounts.append(
            further * sum(p * n for p, n in zip(costs[1], sizes, strict=True))
        )
    means = [float(w.double().abs().mean()) or 1.0 for w in weights]
    bounds = bounds or [(0.0, 1.0)] * len(weights)
    return Request(
        values=weights,
        limits=Limits(tuple(costs), tuple(amounts), ("a", "b")[: len(costs)]),
        worths=lambda own, _: [p / m for p, m in zip(own, means, strict=True)],
        bounds=[
            (round(low * n), round(high * n))
            for (low, high), n in zip(bounds, sizes, strict=True)
        ],
        beta=10.0,
        names=[f"w{i}" for i in range(len(weights))],
    )


def drawn(count: int, size: int, *, ties: bool, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(count + size)
    shapes = [(size + 7 * (i % 3), size + i % 2) for i in range(count)]
    found = [
        torch.randn(shape, dtype=dtype) * (1 + i % 4) for i, shape in enumerate(shapes)
    ]
    return [(w * 2).round() / 2 for w in found] if ties else found


def on_ranks() -> None:
    """The cases, in every process."""
    counting = Ranks._reduced

    def counted(self: Ranks, numbers: Tensor, how: object) -> Tensor:
        SENT[0] += 8 * torch.as_tensor(numbers).numel()
        return counting(self, numbers, how)

    Ranks._reduced = counted  # type: ignore[method-assign, assignment]
    narrow = [(0.3, 1.0), (0.0, 0.05), (0.2, 0.2), (0.0, 1.0), (0.01, 1.0), (0.0, 0.9)]
    for ties, dtype in ((False, torch.float32), (True, torch.float64)):
        weights = drawn(6, 40, ties=ties, dtype=dtype)
        clamped = [w.clamp(-1, 1) for w in weights]
        for request in (
            request_of(weights, 0.2, narrow),
            request_of(weights, 0.3, narrow, further=0.12),
            request_of(weights, 1.0),
            request_of(clamped, 0.4, narrow),
        ):
            values = list(request.values)
            found = check(values, request)
            if not ties:
                values = [w * (1 + 1e-4 * torch.randn_like(w)) for w in values]
            again = replace(request, values=values)
            check(values, again, Warm.after(found, request.beta))
    layers = 24
    weights = drawn(layers, 128, ties=False, dtype=torch.float32)
    check(weights, request_of(weights, 0.13, [(0.001, 1.0)] * layers))
    assert SENT[0] < 64_000 + 64 * layers, SENT
    print(f"sent {SENT[0]}")


def test_two_ranks_find_the_masks_of_one(tmp_path: Path) -> None:
    together(2, on_ranks, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("world", [3, 4])
def test_more_ranks_too(tmp_path: Path, world: int) -> None:
    together(world, on_ranks, tmp_path)
