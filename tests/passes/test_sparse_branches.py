"""Sparse Parallel, Factorized and Doped: sizes, exact cost, what is selected."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.passes import SparseDoped, SparseFactorized, SparseParallel
from sparsefx.passes.iso_flop.record import record_of, shared
from tests.passes.branch_networks import MEMBERS, convs, linears
from tests.passes.rewritten import graph_of

# Sizes and counts of the middle layer, density by density.
LINEAR = {
    0.5: ([4096] * 2, (86, 2731, 5461), (21, 4032, 4160)),
    0.25: ([2048] * 4, (171, 2731, 5461), (32, 6144, 2048)),
    0.1: ([820] * 2 + [819] * 8, (427, 2731, 5461), (38, 7296, 896)),
}
CONV = {
    0.5: ([36864] * 2, (210, 120960, 26880), (52, 36608, 37120)),
    0.25: ([18432] * 4, (419, 241344, 53632), (78, 54912, 18816)),
    0.1: ([7373] * 8 + [7372] * 2, (1048, 603648, 134144), (94, 66176, 7552)),
}


@pytest.mark.parametrize("density", LINEAR)
@pytest.mark.parametrize(("make", "shape", "table"), [
    (linears, (2, 8), LINEAR), (convs, (1, 3, 4, 4), CONV),
])  # fmt: skip
def test_worked_examples(
    density: float,
    make: Callable[..., Any],
    shape: tuple[int, ...],
    table: dict[float, tuple[Any, ...]],
) -> None:
    branches, (width, *factors), (rank, low_rank, sparse) = table[density]
    graph = graph_of(make(), torch.randn(shape))
    numel = 8192 if table is LINEAR else 73728
    kept = record_of(SparseParallel(density)(graph)).kept
    assert list(kept.values()) == branches
    assert sum(branches) == numel
    found = SparseFactorized(density)(graph)
    first = found.get_parameter("1.factor_in.weight")
    second = found.get_parameter("1.factor_out.weight")
    assert (first.shape[0], second.shape[1]) == (width, width)
    kept = list(record_of(found).kept.values())
    assert sum(kept) == numel
    if table is LINEAR:
        assert kept == factors
    else:
        assert [first.numel(), second.numel()] == factors
    found = SparseDoped(density)(graph)
    first = found.get_parameter("1.factor_in.weight")
    second = found.get_parameter("1.factor_out.weight")
    assert first.shape[0] == rank
    assert first.numel() + second.numel() == low_rank
    assert record_of(found).kept == {"1.weight": sparse}
    assert low_rank + sparse == numel


@pytest.mark.parametrize("member", MEMBERS)
def test_the_whole_model_at_equal_cost(member: type[Any]) -> None:
    """Branches and factors bring norms of their own, which sparse weights pay."""
    net, x = convs(), torch.randn(1, 3, 4, 4)
    record = record_of(member(density=0.25, iso="model")(graph_of(net, x)))
    macs = record.macs
    # 4 x 4 positions; the norm has 128 channels, in each branch; 419 between factors
    channels = {SparseParallel: 4 * 128, SparseFactorized: 128 + 419}.get(member, 128)
    assert (macs["norms_before"], macs["norms_after"]) == (128 * 16, channels * 16)
    after = macs["model_after"] + macs["norms_after"]
    assert after == macs["model_before"] + macs["norms_before"]
    dense = net[4].weight.numel() + net[0].weight.numel() + net[1].weight.numel()
    assert macs["model_before"] == 16 * dense


def test_the_given_graph_and_model_stay_as_they_are() -> None:
    net, x = convs().eval(), torch.randn(1, 3, 4, 4)
    graph = graph_of(net, x)
    before, code = copy.deepcopy(net.state_dict()), graph.code
    wanted = net(x)
    for member in MEMBERS:
        found = member(density=0.25)(graph)
        assert not {id(p) for p in net.parameters()} & {
            id(p) for p in found.parameters()
        }
    assert graph.code == code
    assert torch.equal(graph(x), wanted)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("member", [SparseParallel, SparseDoped])
def test_density_one_is_the_same_model(member: type[Any]) -> None:
    net, x = convs().eval(), torch.randn(2, 3, 4, 4)
    found = member(density=1.0)(graph_of(net, x)).eval()
    assert torch.equal(found(x), net(x))


@pytest.mark.parametrize("member", MEMBERS)
def test_stride_and_transposed_convolutions_keep_the_shape_and_cost(
    member: type[Any],
) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, dilation=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1),
        nn.Conv2d(12, 3, 1),
    )
    x = torch.randn(2, 3, 10, 10)
    found = member(density=0.4)(graph_of(net, x))
    assert found(x).shape == net(x).shape
    record = record_of(found)
    assert record.macs["after"] == record.macs["before"]
    assert {name.split(".")[0] for name in record.kept} == {"1", "3"}


def test_grouped_layers_and_ties() -> None:
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.twice = nn.Linear(4, 6), nn.Linear(6, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            x = torch.tanh(self.twice(self.stem(x)))
            return self.head(torch.relu(self.twice(x)))

    net, x = Tied(), torch.randn(3, 4)
    found = SparseParallel(density=0.5)(graph_of(net, x))
    assert list(record_of(found).kept) == [
        "twice.branches.0.weight",
        "twice.branches.1.weight",
    ]
    assert record_of(found).macs["after"] == record_of(found).macs["before"]
    grouped = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1)
    )
    graph = graph_of(grouped, torch.randn(1, 3, 5, 5))
    kept = record_of(SparseParallel(density=0.5)(graph)).kept
    assert kept == {"1.branches.0.weight": 36, "1.branches.1.weight": 36}
    assert "grouped" in record_of(SparseDoped(density=0.5)(graph)).left["1.weight"]


def test_selection() -> None:
    graph = graph_of(linears(), torch.randn(2, 8))
    chosen = lambda **kw: {  # noqa: E731
        n.split(".")[0]
        for n in record_of(SparseParallel(density=0.5, **kw)(graph)).kept
    }
    assert chosen() == {"1"}
    assert chosen(select="all") == {"0", "1", "2"}
    assert chosen(select=("0", "2")) == {"0", "2"}
    one = graph_of(nn.Linear(4, 4), torch.randn(2, 4))
    assert len(record_of(SparseParallel(density=0.5)(one)).kept) == 2


def test_a_traced_graph_after_shape_prop() -> None:
    from torch.fx.passes.shape_prop import ShapeProp

    net, x = convs(), torch.randn(2, 3, 4, 4)
    traced = torch.fx.symbolic_trace(net)
    with pytest.raises(sparsefx.CaptureError, match="ShapeProp"):
        SparseDoped(density=0.25)(traced)
    ShapeProp(traced).propagate(x)
    found = SparseDoped(density=0.25)(traced)
    assert record_of(found).kept == {"1.weight": 18816}
    assert found(x).shape == net(x).shape


@pytest.mark.parametrize(("options", "says"), [
    ({"density": 0}, r"in \(0, 1\]"), ({"density": 1.5}, "density is 1.5"),
    ({"activation": "none"}, "activation"), ({"init": "old"}, "init"),
    ({"round_to": 0}, "round_to"), ({"iso": "maskable"}, "iso"),
])  # fmt: skip
@pytest.mark.parametrize("member", MEMBERS)
def test_options_are_checked(
    member: type[Any], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(sparsefx.PolicyError, match=says):
        member(**options)


def test_shares_are_exact() -> None:
    for total, sizes in ((8192, [5504, 11008]), (7, [3, 3, 3]), (0, [4])):
        found = shared(total, sizes)
        assert sum(found) == total
        assert all(n <= s for n, s in zip(found, sizes, strict=True))
        ideal = [total * s / sum(sizes) for s in sizes]
        assert all(abs(a - b) < 1 for a, b in zip(found, ideal, strict=True))
    assert math.fsum(shared(10, [1] * 10)) == 10


@pytest.mark.parametrize("member", MEMBERS)
def test_train_and_eval_deepcopy_and_compile_free_call(member: type[Any]) -> None:
    net, x = convs(stride=2), torch.randn(2, 3, 8, 8)
    found = member(density=0.5)(graph_of(net, x))
    found.eval()
    assert not any(m.training for m in found.modules())
    twin = copy.deepcopy(found)
    assert torch.equal(twin(x), found(x))
    assert found(torch.randn(5, 3, 8, 8)).shape[0] == 5
    assert record_of(twin) == record_of(found)
