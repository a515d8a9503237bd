"""Latency as a linear cost: lines, choice of layers, budgets, the cache."""

import json

import pytest
import sympy
import torch
from torch import nn

import sparsefx
from sparsefx import latency
from sparsefx.errors import BudgetError
from sparsefx.latency import Latencies, Line, measure, measure_layer, with_latency
from sparsefx.lowering import timing
from sparsefx.lowering.layers import Dense
from sparsefx.site import Site

X = torch.linspace(-1, 1, 64 * 96).reshape(64, 96).sin()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEFX_CACHE", str(tmp_path))
    return tmp_path / "latency.json"


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 64))


def known(monkeypatch, lines, total):
    """As if a machine had taken these times."""
    monkeypatch.setattr(latency, "measure", lambda *_: Latencies(total, lines))


def sites(names=("0.weight", "2.weight")):
    return [
        Site(n, n[0], "linear", (10, 10), {"macs": sympy.Integer(1)}) for n in names
    ]


def test_a_line_fits_what_was_measured(monkeypatch):
    def clock(calls, device, rounds):
        return {
            name: 2.0 if name == "dense" else 0.5 + 4.0 * float(name.split("@")[1])
            + (name.startswith("csr"))
            for name in calls
        }  # fmt: skip

    monkeypatch.setattr(timing, "interleaved", clock)
    line = measure_layer(Dense("w", torch.randn(16, 16), None), torch.randn(3, 16))
    assert (line.dense, line.kernel) == (2.0, "gather")
    assert (line.fixed, line.slope) == pytest.approx((0.5, 4.0))
    assert line.residual < 1e-9
    assert line.even == pytest.approx(0.375)


def test_as_few_layers_as_possible_become_sparse():
    lines = {
        "0.weight": Line(5.0, 0.5, 10.0, 0.0, "csr"),
        "2.weight": Line(3.0, 0.5, 10.0, 0.0, "csr"),
    }
    found = Latencies(9.0, lines)
    one, fixed = with_latency(sites(), found, 7.0)
    assert [site.cost("latency_ms") for site in one] == pytest.approx([0.1, 0.0])
    assert (one[0].max_density, one[1].max_density) == pytest.approx((0.45, 1.0))
    assert fixed == 9.0 - 4.5
    both, fixed = with_latency(sites(), found, 4.0)
    assert [site.cost("latency_ms") for site in both] == pytest.approx([0.1, 0.1])
    assert fixed == 2.0
    with pytest.raises(BudgetError, match="not above the 2 ms that the model takes"):
        with_latency(sites(), found, 1.9)


def test_the_budget_counts_what_is_fixed(monkeypatch):
    lines = {
        "0.weight": Line(4.0, 0.5, 20.0, 0.0, "csr"),
        "2.weight": Line(2.0, 0.5, 20.0, 0.0, "csr"),
    }
    known(monkeypatch, lines, 8.0)
    for budget, limit in (({"latency_ms": 0.5}, 4.0), ("4 ms", 4.0)):
        sparse = sparsefx.transform(net(), budget=budget, example_inputs=(X,))
        info = sparsefx.step(sparse)
        assert info.budget == pytest.approx(limit)
        assert info.hard_cost <= limit
        assert info.hard_cost > limit - 20.0 / 8192
        assert info.soft_cost == pytest.approx(limit, rel=1e-6)
        kept = [int(m.sum()) for m in sparsefx.masks(sparse).values()]
        spent = 2.0 + 0.5 + 0.5 + 20.0 * (kept[0] / 12288 + kept[1] / 8192)
        assert info.hard_cost == pytest.approx(spent)
        assert sparsefx.report(sparse).to_dict()["budgets"]["latency_ms"]["met"]


def test_with_another_budget(monkeypatch):
    known(monkeypatch, {"0.weight": Line(4.0, 0.5, 20.0, 0.0, "csr")}, 8.0)
    budget = {"latency_ms": "5 ms", "params": 0.1}
    info = sparsefx.step(sparsefx.transform(net(), budget=budget, example_inputs=(X,)))
    assert all(hard <= limit for limit, _, hard in info.budgets.values())


def test_measurements_are_remembered(cache, monkeypatch):
    found = measure(net(), (X,))
    assert set(found.lines) == {"0.weight", "2.weight"}
    assert all(line.dense > 0 for line in found.lines.values())
    assert "residual" in str(found)
    assert len(json.loads(cache.read_text())) == 2
    monkeypatch.setattr(latency, "measure_layer", None)  # would fail if called
    again = measure(net(), (X,))
    assert again.lines == found.lines
    cache.write_text("no json")
    with pytest.raises(TypeError):
        measure(net(), (X,))


def test_it_needs_inputs():
    class Any(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3))
            self.fc = nn.Linear(3, 3)

        def forward(self, x, y):
            return self.fc(x) + y

    with pytest.raises(BudgetError, match="needs example_inputs"):
        sparsefx.transform(Any(), budget="3 ms")
