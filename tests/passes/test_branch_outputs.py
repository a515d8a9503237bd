"""What branches and factors compute: variance, norms, activations."""

import copy
import operator
from typing import Any

import pytest
import torch
from torch import nn

from sparsefx.passes import SparseDoped, SparseFactorized, SparseParallel
from sparsefx.passes.iso_flop.record import record_of
from tests.passes.branch_networks import MEMBERS, convs, linears
from tests.passes.rewritten import graph_of
from tests.some_of import some_of


@pytest.mark.parametrize("density", [0.5, 0.1])
@pytest.mark.parametrize("act", some_of([None, nn.ReLU()], 2))
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
