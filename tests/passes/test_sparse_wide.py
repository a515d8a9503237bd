"""Sparse Wide: exact cost, kept outputs, initial variance."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsefx
from sparsefx.passes import SparseWide
from sparsefx.passes.costs.graph_costs import Prices
from sparsefx.passes.graphs.owned_graph import own_graph
from sparsefx.passes.iso_flop.record import record_of, shared_by_price
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


def test_density_one_changes_nothing() -> None:
    _, _, graph, _ = recorded("resnet18")
    with pytest.raises(sparsefx.PolicyError, match="grow"):
        SparseWide(density=1.0)(graph)


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
