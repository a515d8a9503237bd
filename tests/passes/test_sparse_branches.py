"""Sparse Parallel, Factorized and Doped: sizes, exact cost, initial variance."""

import copy
import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.passes import SparseDoped, SparseFactorized, SparseParallel
from sparsefx.passes.iso_flop.record import record_of, shared
from tests.passes.rewritten import graph_of

MEMBERS = (SparseParallel, SparseFactorized, SparseDoped)


def linears(act=None):
    acts = [] if act is None else [act]
    return nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 128), *acts, nn.Linear(128, 4))


def convs(stride=1):
    return nn.Sequential(
        nn.Conv2d(3, 64, 1),
        nn.Conv2d(64, 128, 3, stride, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 4, 1),
    )


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


@pytest.mark.parametrize("density", [0.5, 0.1])
@pytest.mark.parametrize("act", [None, nn.ReLU()])
@pytest.mark.parametrize("member", MEMBERS)
def test_outputs_vary_as_the_dense_ones_at_initialisation(
    member: type[Any], act: Any, density: float
) -> None:
    """With random masks of the right counts; averaged over draws."""
    net = linears(act)
    net[0] = nn.Linear(256, 64)
    x = torch.randn(300, 256)
    graph = graph_of(net, x[:2])
    ratios = []
    with torch.no_grad():
        for layer in net[:2]:
            layer.bias.zero_()
        wanted = net[:-1](x).var()
        for _ in range(4):
            found = member(density=density)(graph)
            for name, count in record_of(found).kept.items():
                flat = found.get_parameter(name).view(-1)
                flat[torch.randperm(len(flat))[count:]] = 0
            (out,) = found.graph.output_node().all_input_nodes
            ratios.append(float(seen(found, out.args[0], x).var() / wanted))
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("density", [0.5, 0.1])
def test_a_batch_norm_leaves_room_for_the_low_rank_part(density: float) -> None:
    net, x = convs(), torch.randn(20, 3, 20, 20)
    with torch.no_grad():  # the norm gives 1 whatever comes; the other part follows it
        scale = net[0](x).square().mean().sqrt()
        net[0].weight /= scale
        net[0].bias /= scale
    ratios = []
    for _ in range(3):
        found = SparseDoped(density)(graph_of(net, x[:2]))
        for name, count in record_of(found).kept.items():
            flat = found.get_parameter(name).data.view(-1)
            flat[torch.randperm(len(flat))[count:]] = 0
        (out,) = found.graph.output_node().all_input_nodes
        with torch.no_grad():
            wanted = net[:-1](x).var()
        ratios.append(float(seen(found, out.args[0], x).var() / wanted))
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.1)


def seen(module, node, x):
    """The value of one node."""
    probe = Recorder(module, node)
    with torch.no_grad():
        probe.run(x)
    return probe.seen


class Recorder(torch.fx.Interpreter):
    """Keeps the value of one node."""

    def __init__(self, module, node):
        super().__init__(module)
        self.node, self.seen = node, None

    def run_node(self, n):
        value = super().run_node(n)
        if n is self.node:
            self.seen = value
        return value


def test_kept_weights_compute_what_they_did() -> None:
    net, x = linears(), torch.randn(5, 8)
    graph = graph_of(net, x)
    found = SparseParallel(density=0.25, init="keep")(graph)
    assert torch.allclose(found(x), net(x), atol=1e-5)
    for name, count in record_of(found).kept.items():
        assert int(found.get_parameter(name).count_nonzero()) <= count
    found = SparseDoped(density=0.25, init="keep")(graph)
    assert torch.allclose(found(x), net(x), atol=1e-6)


def relus(module):
    return sum(node.target is nn.functional.relu for node in module.graph.nodes)


def norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def test_activations_are_where_the_paper_has_them() -> None:
    graph = graph_of(convs(), torch.randn(1, 3, 4, 4))
    branches = SparseParallel(density=0.5)(graph)
    assert (relus(branches), len(norms(branches))) == (2, 2)
    assert relus(SparseParallel(density=0.5, activation="sum")(graph)) == 1
    always = SparseParallel(density=0.5, activation="always", select="all")(graph)
    assert relus(always) == 6
    factors = SparseFactorized(density=0.5)(graph)
    assert relus(factors) == 2
    assert sorted(m.num_features for m in norms(factors)) == [128, 210]
    linear = SparseFactorized(density=0.5, activation="linear")(graph)
    assert relus(linear) == 1
    doped = SparseDoped(density=0.5)(graph).graph
    (relu,) = (n for n in doped.nodes if n.name.startswith("relu"))
    assert next(iter(relu.users)).target.__name__ == "add"
    summed = SparseDoped(density=0.5, activation="sum")(graph).graph
    (relu,) = (n for n in summed.nodes if n.name.startswith("relu"))
    assert next(iter(relu.users)).target is nn.functional.conv2d


def test_branches_without_activation_fold_into_one_layer() -> None:
    """The authors' CIFAR variant is one convolution at inference, the paper's not."""
    net, x = convs().eval(), torch.randn(2, 3, 6, 6)
    graph = graph_of(net, x)

    def bent(found):
        """How far f(x) + f(-x) - 2 f(0) is from 0: not at all if f is affine."""
        found.eval()
        sums = [n for n in found.graph.nodes if n.target is operator.mul]
        parts = [seen(found, sums[0], z) for z in (x, -x, 0 * x)]
        return float((parts[0] + parts[1] - 2 * parts[2]).abs().max())

    assert bent(SparseParallel(density=0.5, activation="sum")(graph)) < 1e-4
    assert bent(SparseParallel(density=0.5)(graph)) > 0.1


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


NORMS = {
    "group": (nn.Conv2d, lambda: nn.GroupNorm(4, 12)),
    "layer": (nn.Linear, lambda: nn.LayerNorm(12)),
    "rms": (nn.Linear, lambda: nn.RMSNorm(12)),
    "batch": (nn.Conv2d, lambda: nn.BatchNorm2d(12)),
    "instance": (nn.Conv2d, lambda: nn.InstanceNorm2d(12, affine=True)),
}


@pytest.mark.parametrize("norm", NORMS)
def test_each_branch_has_a_norm_of_its_own(norm):
    kind, make = NORMS[norm]
    more = (3,) if kind is nn.Conv2d else ()
    x = torch.randn((2, 4, 8, 8) if more else (2, 5, 4))
    net = nn.Sequential(kind(4, 8, *more), kind(8, 12, *more), make(), nn.ReLU(),
                        kind(12, 3, *more)).eval()  # fmt: skip
    found = SparseParallel(density=0.5)(graph_of(net, x))
    total = 0
    for j in range(2):
        layer, own = copy.deepcopy(net[1]), copy.deepcopy(net[2])
        modular = norm in ("batch", "instance")
        path = f"2_branches.{j}" if modular else f"2.branches.{j}"
        with torch.no_grad():
            for leaf in ("weight", "bias"):
                getattr(layer, leaf).copy_(
                    found.get_parameter(f"1.branches.{j}.{leaf}")
                )
                if getattr(own, leaf, None) is not None:
                    theirs = found.get_parameter(f"{path}.{leaf}")
                    theirs.normal_()
                    getattr(own, leaf).copy_(theirs)
        total = total + own(layer(net[0](x))).relu()
    torch.testing.assert_close(found.eval()(x), net[4](total / 2**0.5))
