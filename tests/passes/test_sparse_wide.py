"""Sparse Wide: followed widths, exact cost, kept outputs, initial variance."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx
from sparsefx.passes import SparseWide
from sparsefx.passes.costs.graph_costs import Prices
from sparsefx.passes.graphs.owned_graph import own_graph
from sparsefx.passes.iso_flop.record import record_of, shared_by_price
from sparsefx.passes.widths.axes import Axes
from tests.decoders import RMSNorm
from tests.passes.rewritten import graph_of, recorded
from tests.rewrites import ZOO


def growth(found, net):
    old = sum(p.numel() for p in net.parameters())
    return sum(p.numel() for p in found.parameters()) / old


LONG = ("resnet34", "resnet50")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in ZOO],
)
def test_every_layer_grows_and_keeps_as_many(name: str) -> None:
    net, _, graph, _ = recorded(name)
    found = SparseWide(density=0.5)(graph)
    record = record_of(found)
    assert record.left == {}
    assert growth(found, net) > 1.6
    for weight, count in record.kept.items():
        assert count == net.get_parameter(weight).numel()
        assert count < found.get_parameter(weight).numel()


class Toy(nn.Module):
    """Residual, depthwise, 1x1, concatenation, flatten: five groups of channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.depth = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.a, self.b = nn.Conv2d(16, 24, 1), nn.Conv2d(16, 8, 1)
        self.mix = nn.Conv2d(32, 32, 3, 2, 1)
        self.fc, self.head = nn.Linear(32 * 16, 40), nn.Linear(40, 10)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(x + self.conv(x))
        x = self.depth(x)
        x = torch.cat([self.a(x), self.b(x)], 1)
        x = F.relu(self.mix(x))
        return self.head(F.relu(self.fc(x.view(x.size(0), 32 * 16))))


def test_the_five_widths_of_the_dossier() -> None:
    net, x = Toy(), torch.randn(2, 3, 8, 8)
    graph = graph_of(net, x)
    found = SparseWide(density=0.5)(graph)
    shapes = {n: tuple(p.shape) for n, p in found.named_parameters() if p.ndim > 1}
    assert [shapes[n][0] for n in ("stem.weight", "a.weight", "b.weight", "mix.weight",
                                   "fc.weight")] == [23, 34, 11, 45, 57]  # fmt: skip
    factor = {
        name: torch.Size(shape).numel() / net.get_parameter(name).numel()
        for name, shape in shapes.items()
    }
    assert [round(factor[f"{n}.weight"], 2) for n in
            ("conv", "stem", "depth", "mix", "fc", "head")] == [
                2.07, 1.44, 1.44, 1.98, 2.0, 1.43]  # fmt: skip
    assert found(x).shape == (2, 10)
    assert "view" in found.code
    for density in (0.5, 0.25, 0.1):
        record = record_of(SparseWide(density=density, iso="maskable")(graph))
        assert record.macs["after"] == record.macs["before"]
        assert set(record.kept) == {
            f"{n}.weight" for n in ("conv", "a", "b", "mix", "fc")
        }


@pytest.mark.parametrize("density", [0.5, 0.25, 0.1])
def test_worked_examples(density: float) -> None:
    wide = {0.5: (91, 181), 0.25: (128, 256), 0.1: (202, 405)}[density]
    net = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 128), nn.Linear(128, 4))
    found = SparseWide(density)(graph_of(net, torch.randn(2, 8)))
    assert found.get_parameter("1.weight").shape == wide[::-1]
    assert record_of(found).kept["1.weight"] == 8192
    net = nn.Sequential(
        nn.Conv2d(3, 64, 1), nn.Conv2d(64, 128, 3), nn.Conv2d(128, 4, 1)
    )
    found = SparseWide(density)(graph_of(net, torch.randn(1, 3, 5, 5)))
    assert found.get_parameter("1.weight").shape == (*wide[::-1], 3, 3)
    assert record_of(found).kept["1.weight"] == 73728


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n != "gpt2" else []) for n in ZOO],
)
def test_the_whole_model_at_equal_cost(name: str) -> None:
    """Products of activations and norms too, within a weight of the cheapest layer."""
    net, x, graph, dense = recorded(name)
    record = record_of(SparseWide(density=0.5, iso="model")(graph))
    macs, rows = record.macs, sparsefx.costs(net, (x,))
    assert macs["model_before"] == dense["total"]
    cheapest = min(rows[n].number() // rows[n].params for n in record.kept)
    before = macs["model_before"] + macs["norms_before"]
    assert 0 <= before - macs["model_after"] - macs["norms_after"] < cheapest
    assert macs["norms_after"] > macs["norms_before"] > 0
    assert macs["after"] < macs["before"]


@pytest.mark.parametrize("name", ["resnet18", "llama"])
def test_norms_count_an_entry_each(name: str) -> None:
    """Modules, functions and norms that are spelled out, by watching them run."""
    net, x, graph, _ = recorded(name)
    entries = []
    kinds = (nn.BatchNorm2d, nn.LayerNorm, RMSNorm)
    hooks = [
        module.register_forward_hook(lambda m, args, out: entries.append(out.numel()))
        for module in net.modules()
        if isinstance(module, kinds)
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    assert len(entries) > 2
    assert Prices.of(own_graph(graph)).norms == sum(entries)


@pytest.mark.slow
def test_attention_grows_by_size_or_by_count() -> None:
    _, _, graph, _ = recorded("vit")
    sizes = SparseWide(density=0.5, heads="size")(graph)
    assert sizes.get_parameter("blocks.0.attention.qkv.weight").shape[0] == 3 * 3 * 11
    counts = SparseWide(density=0.5, heads="count")(graph)
    assert counts.get_parameter("blocks.0.attention.qkv.weight").shape[0] == 3 * 4 * 8
    # rotary tables fix the size of the heads: the groups of queries grow in number
    llama, found = recorded("llama")[0], SparseWide(density=0.25)(recorded("llama")[2])
    assert found.get_parameter("layers.0.k.weight").shape[0] == 4 * 4
    assert found.get_parameter("layers.0.q.weight").shape[0] == 12 * 4
    assert llama.layers[0]["k"].weight.shape[0] == 2 * 4


def test_scales_of_attention_follow_the_heads() -> None:
    net, x, graph, _ = recorded("vit")
    found = SparseWide(density=0.25, heads="size")(graph)
    numbers = [a for n in found.graph.nodes for a in n.args if isinstance(a, float)]
    assert 16**-0.5 in numbers
    assert 8**-0.5 not in numbers
    assert found(x[:1]).shape == net(x[:1]).shape


def test_ties_stay_ties() -> None:
    _, _, graph, _ = recorded("gpt2")
    found = SparseWide(density=0.5)(graph)
    reads = [n.target for n in found.graph.nodes if n.op == "get_attr"]
    assert (
        len(
            {
                id(found.get_parameter(n))
                for n in reads
                if n in ("wte.weight", "head.weight")
            }
        )
        == 1
    )
    assert found.get_parameter("wte.weight").shape == (40, 34)


@pytest.mark.parametrize("name", ["densenet", "shufflenet"])
def test_kept_weights_compute_what_they_did(name: str) -> None:
    net, x, graph, _ = recorded(name)
    net.eval()
    found = SparseWide(density=0.5, init="keep")(graph).eval()
    assert torch.allclose(found(x), net(x), atol=1e-4)
    for weight, count in record_of(found).kept.items():
        assert int(found.get_parameter(weight).count_nonzero()) <= count


@pytest.mark.parametrize("density", [0.5, 0.1])
def test_outputs_vary_as_the_dense_ones_at_initialisation(density: float) -> None:
    layers = [m for _ in range(3) for m in (nn.Linear(256, 256), nn.ReLU())][:-1]
    net, x = nn.Sequential(*layers), torch.randn(200, 256)
    graph = graph_of(net, x[:2])  # it reads the weights of the net as they are
    wanted, got = 0.0, 0.0
    with torch.no_grad():
        for _ in range(5):
            for layer in net[::2]:
                nn.init.kaiming_normal_(layer.weight)
                layer.bias.zero_()
            wanted += float(net(x).square().mean())
            found = SparseWide(density=density)(graph)
            for name, count in record_of(found).kept.items():
                flat = found.get_parameter(name).view(-1)
                flat[torch.randperm(len(flat))[count:]] = 0
            got += float(found(x).square().mean())
    assert got / wanted == pytest.approx(1, abs=0.1)


def test_selection_rounding_and_what_is_held() -> None:
    net, x, graph, _ = recorded("resnet18")
    found = SparseWide(density=0.5, round_to=8)(graph)
    widths = {p.shape[0] for n, p in found.named_parameters() if "conv1" in n}
    assert all(width % 8 == 0 for width in widths)
    found = SparseWide(density=0.5, select=("layers.0.conv1", "layers.2.conv1"))(graph)
    record = record_of(found)
    assert set(record.kept) == {
        f"layers.{i}.conv{j}.weight" for i in (0, 2) for j in (1, 2)
    }
    assert "select leaves it out" in record.left.values()
    assert found(x).shape == net(x).shape


class Shuffled(nn.Module):
    """Units that shuffle again and again, their halves of an odd width."""

    def __init__(self, half=3, units=3):
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * half, 1)
        self.units = nn.ModuleList(nn.Conv2d(half, half, 1) for _ in range(units))
        self.head = nn.Linear(2 * half, 5)

    def forward(self, x):
        x = self.stem(x)
        for unit in self.units:
            kept, changed = x.chunk(2, dim=1)
            x = torch.cat([kept, F.relu(unit(changed))], 1)
            b, c, h, w = x.shape
            x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous()
            x = x.view(b, c, h, w)
        return self.head(x.mean((2, 3)))


def test_channels_shuffled_again_and_again() -> None:
    net, x = Shuffled(), torch.randn(2, 3, 4, 4)
    graph = graph_of(net, x)
    for density, half in ((0.25, 6), (0.1, 9)):
        found = SparseWide(density=density)(graph)
        record = record_of(found)
        assert record.left == {}
        assert record.macs["after"] == record.macs["before"]
        for i in range(3):
            assert found.get_parameter(f"units.{i}.weight").shape[:2] == (half, half)
        assert found(x).shape == (2, 5)
    # which channels are in a half must be known to keep the given weights
    with pytest.raises(sparsefx.PolicyError, match="inside of a channel"):
        SparseWide(density=0.25, init="keep")(graph)


def test_what_no_rule_knows_is_held_or_refused() -> None:
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.c(F.relu(self.b(torch.sort(self.a(x), -1).values)))

    graph = graph_of(Odd(), torch.randn(3, 4))
    found = SparseWide(density=0.25)(graph)
    assert found.get_parameter("a.weight").shape == (8, 4)
    assert found.get_parameter("b.weight").shape == (16, 8)
    (reason,) = record_of(found).left.values()
    assert "sort" in reason
    with pytest.raises(sparsefx.CaptureError, match="sort"):
        SparseWide(density=0.25, strict=True)(graph)
    single = graph_of(nn.Linear(4, 4), torch.randn(2, 4))
    with pytest.raises(sparsefx.PolicyError, match="grow"):
        SparseWide(density=0.25)(single)


def test_density_one_changes_nothing() -> None:
    _, _, graph, _ = recorded("resnet18")
    with pytest.raises(sparsefx.PolicyError, match="grow"):
        SparseWide(density=1.0)(graph)


class Random(nn.Module):
    """A small convolutional network drawn at random."""

    def __init__(self, plan, widths):
        super().__init__()
        self.plan, self.layers = plan, nn.ModuleList()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        width = widths[0]
        for kind, new in zip(plan, widths[1:], strict=True):
            if kind == "conv":
                self.layers.append(nn.Conv2d(width, new, 3, padding=1))
                width = new
            elif kind == "add":
                self.layers.append(nn.Conv2d(width, width, 1))
            elif kind == "depthwise":
                self.layers.append(nn.Conv2d(width, width, 3, padding=1, groups=width))
            elif kind == "grouped":
                self.layers.append(nn.Conv2d(width, width, 1, groups=2))
            elif kind == "concat":
                self.layers.append(nn.Conv2d(width, new, 1))
                width += new
            elif kind == "norm":
                self.layers.append(nn.GroupNorm(2, width))
            elif kind == "gate":
                self.layers.append(nn.Conv2d(width, width, 1))
            else:
                self.layers.append(nn.BatchNorm2d(width))
        self.width = width
        self.fc = nn.Linear(width * 16, 5)

    def forward(self, x):
        x = self.stem(x)
        for kind, layer in zip(self.plan, self.layers, strict=True):
            if kind == "add":
                x = F.relu(x + layer(x))
            elif kind == "concat":
                x = torch.cat([x, layer(x)], 1)
            elif kind == "gate":
                x = x * layer(x.mean((2, 3), keepdim=True)).sigmoid()
            elif kind == "shuffle":
                b, c, h, w = x.shape
                x = (
                    layer(x)
                    .view(b, 2, c // 2, h, w)
                    .transpose(1, 2)
                    .reshape(b, c, h, w)
                )
            elif kind == "halves":
                a, b = layer(x).chunk(2, 1)
                x = torch.cat([b, a], 1)
            elif kind == "tokens":
                b, c, h, w = x.shape
                x = layer(x).flatten(2).transpose(1, 2)
                x = x.transpose(1, 2).reshape(b, c, h, w)
            else:
                x = layer(x)
        return self.fc(x.reshape(x.shape[0], self.width * 16))


KINDS = ("conv", "add", "depthwise", "grouped", "concat", "norm", "gate", "shuffle",
         "halves", "tokens")  # fmt: skip


@settings(max_examples=12)
@given(st.data())
def test_random_networks_run_forward_and_backward(data: st.DataObject) -> None:
    plan = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    widths = [4 * data.draw(st.integers(1, 4)) for _ in range(len(plan) + 1)]
    net, x = Random(plan, widths), torch.randn(2, 3, 4, 4)
    density = data.draw(st.sampled_from([0.5, 0.25, 0.1]))
    found = SparseWide(density=density)(graph_of(net, x))
    record = record_of(found)
    assert record.macs["after"] == record.macs["before"]
    assert record.left == {}
    out = found(x)
    assert out.shape == net(x).shape
    out.square().sum().backward()
    assert all(p.grad is not None for p in found.parameters())


def test_axes_solve_for_multiples() -> None:
    axes = Axes()
    wide, heads = axes.group(12), axes.group(4)
    axes.equal(wide, axes.copies(heads, 3))
    assert axes.sizes(wide) == [4, 4, 4]
    tall = axes.group(6)
    axes.equal(axes.spread(tall, 2), axes.spread(heads, 3))
    (group, repeat), *_ = axes.found(heads)
    assert (axes.size_of(group), repeat) == (2, 2)
    assert axes.width(wide, {group: 3}) == 18
    assert axes.width(tall, {group: 3}) == 9
    assert axes.hold(tall, "") == ((-1, 6),)
    assert not axes.live(wide)


@given(
    st.lists(
        st.tuples(st.integers(20, 200), st.integers(1, 50)), min_size=1, max_size=5
    ),
    st.floats(0, 1),
)
def test_shares_by_price_stay_below_and_close(tensors: Any, fraction: float) -> None:
    sizes, prices = zip(*tensors, strict=True)
    whole = sum(n * p for n, p in tensors)
    total = int(fraction * whole)
    found = shared_by_price(total, sizes, prices)
    spent = sum(n * p for n, p in zip(found, prices, strict=True))
    assert 0 <= total - spent < min(prices)
    assert all(0 <= n <= size for n, size in zip(found, sizes, strict=True))
