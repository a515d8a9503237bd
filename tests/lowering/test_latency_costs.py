"""Latency as a linear cost: choice of layers, budgets, what the whole model takes."""

from typing import Any

import pytest
import sympy
import torch
from torch import nn

import sparsefx
from sparsefx.errors import BudgetError, PolicyError
from sparsefx.lowering import latency_costs, layer_latency
from sparsefx.lowering.latency_costs import fewest, through, timed
from sparsefx.lowering.layer_latency import Latencies
from sparsefx.masking.site import Site
from sparsefx.policies.latency_line import Line
from sparsefx.policies.same_latency import SameLatency
from tests.lowering.timed_net import X, net

pytestmark = pytest.mark.usefixtures("cache")
PAIR = {
    "0.weight": Line(4.0, 0.5, 20.0, 0.0, "csr"),
    "2.weight": Line(2.0, 0.5, 20.0, 0.0, "csr"),
}


def known(monkeypatch, lines, total, *, more=0.0, times=1.0):
    """As if a machine had taken these times, and ``more`` and ``times`` as a whole."""

    def share(model, inputs, found, chosen, share):
        picked = [lines[site.name] for site in chosen]
        spent = sum(x.fixed + times * x.slope * share * x.even for x in picked)
        return (total - sum(x.dense for x in picked) + spent + more) / total

    monkeypatch.setattr(latency_costs, "measure", lambda *_: Latencies(total, lines))
    monkeypatch.setattr(latency_costs, "lowered_share", share)


def sites(names=("0.weight", "2.weight")):
    return [
        Site(n, n[0], "linear", (10, 10), {"macs": sympy.Integer(1)}) for n in names
    ]


def asked(text):
    return sparsefx.settings.budget.parse_budget(text, "macs", ())


def test_a_budget_in_fewer_bits_is_of_the_dense_model_in_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked_for = []

    def measured(model, call, sites, precision):
        return Latencies(20.0, PAIR, precision=precision)

    def share(model, inputs, found, chosen, share):  # dense: 8 ms of 20
        asked_for.append(found.precision)
        picked = [PAIR[site.name] for site in chosen]
        spent = sum(x.fixed - x.dense + x.slope * share * x.even for x in picked)
        return (8.0 + spent) / 20

    monkeypatch.setattr(latency_costs, "measure", measured)
    monkeypatch.setattr(latency_costs, "lowered_share", share)
    found = timed(net(), (X,), asked("5 ms"), sites(), [], precision="int8")
    assert found.latencies.total == pytest.approx(8.0)
    assert found.fixed == pytest.approx(3.0)
    assert found.sites[0].cost("latency_ms") == pytest.approx(0.2)
    assert set(asked_for) == {"int8"}


def test_a_precision_without_milliseconds_is_refused() -> None:
    with pytest.raises(PolicyError, match="'int8' is for budgets of milliseconds"):
        sparsefx.transform(net(), example_inputs=(X,), precision="int8")


def test_as_few_layers_as_possible_become_sparse() -> None:
    lines = {
        "0.weight": Line(5.0, 0.5, 10.0, 0.0, "csr"),
        "2.weight": Line(3.0, 0.5, 10.0, 0.0, "csr"),
    }
    found = Latencies(9.0, lines)
    assert fewest(sites(), found, 7.0) == {"0.weight"}
    assert fewest(sites(), found, 4.0) == set(lines)


def test_the_costs_are_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, PAIR, 8.0)
    one = timed(net(), (X,), asked("6.5 ms"), sites(), [])
    assert [site.cost("latency_ms") for site in one.sites] == pytest.approx([0.2, 0])
    assert [site.max_density for site in one.sites] == pytest.approx([0.175, 1.0])
    assert one.fixed == pytest.approx(8.0 - 3.5)
    both = timed(net(), (X,), asked("5 ms"), sites(), [])
    assert [site.cost("latency_ms") for site in both.sites] == pytest.approx([0.2] * 2)
    assert both.fixed == pytest.approx(3.0)
    with pytest.raises(BudgetError, match="not above the 3 ms that the lowered model"):
        timed(net(), (X,), asked("2.9 ms"), sites(), [])


@pytest.mark.parametrize(("more", "times"), [(0.5, 1.0), (-0.5, 0.5), (0.2, 1.7)])
def test_the_costs_go_through_what_the_lowered_model_takes(
    monkeypatch: pytest.MonkeyPatch, more: float, times: float
) -> None:
    known(monkeypatch, PAIR, 8.0, more=more, times=times)
    found = timed(net(), (X,), asked("5 ms"), sites(), [])
    assert found.fixed == pytest.approx(3.0 + more)
    assert found.sites[0].cost("latency_ms") == pytest.approx(0.2 * times)


def test_more_layers_where_the_model_gains_less_than_its_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(monkeypatch, PAIR, 8.0, more=2.0)
    found = timed(net(), (X,), asked("6.4 ms"), sites(), [])
    assert all(site.cost("latency_ms") > 0 for site in found.sites)


def test_noise_cannot_turn_the_line_around() -> None:
    times = iter([3.0, 3.5, 3.2])
    fixed, scale = through(lambda share: next(times), 1.0, 2.0, 2.0)
    assert scale > 0
    assert fixed < 3.5


def test_the_budget_counts_what_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, PAIR, 8.0)
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


def test_with_another_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, {"0.weight": Line(4.0, 0.5, 20.0, 0.0, "csr")}, 8.0)
    budget = {"latency_ms": "5 ms", "params": 0.1}
    info = sparsefx.step(sparsefx.transform(net(), budget=budget, example_inputs=(X,)))
    assert all(hard <= limit for limit, _, hard in info.budgets.values())


def test_same_latency_makes_every_layer_as_much_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(monkeypatch, PAIR, 8.0)
    sparse = sparsefx.transform(
        net(), "same_latency", budget="4.4 ms", example_inputs=(X,)
    )
    info = sparsefx.step(sparse)
    assert 4.39 < info.hard_cost <= 4.4
    kept = sparsefx.masks(sparse)
    taken = [
        (line.fixed + line.slope * float(kept[name].float().mean())) / line.dense
        for name, line in PAIR.items()
    ]
    assert taken == pytest.approx([0.4, 0.4], abs=2e-3)


def test_same_latency_leaves_no_layer_without_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Line(2.0, 1.9, 2.0, 0.0, "csr")  # cannot be twice as fast
    known(monkeypatch, {**PAIR, "2.weight": slow}, 8.0)
    sparse = sparsefx.transform(
        net(), "same_latency", budget="5 ms", example_inputs=(X,)
    )
    kept = sparsefx.masks(sparse)["2.weight"]
    assert kept.sum() == 64  # one a unit
    assert sparsefx.step(sparse).hard_cost <= 5


def test_a_layer_that_saves_next_to_nothing_stays_dense(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known(monkeypatch, {**PAIR, "2.weight": Line(0.1, 0.03, 0.1, 0.0, "csr")}, 8.0)
    sparse = sparsefx.transform(net(), budget="5 ms", example_inputs=(X,))
    assert sparsefx.masks(sparse)["2.weight"].all()


def test_same_latency_under_another_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, PAIR, 8.0)
    sparse = sparsefx.transform(
        net(), "same_latency", budget={"macs": 0.1}, example_inputs=(X,)
    )
    info = sparsefx.step(sparse)
    assert info.hard_cost <= info.budget
    assert info.hard_cost > 0.99 * info.budget


def test_same_latency_needs_a_model() -> None:
    with pytest.raises(PolicyError, match=r"give it to sparsefx\.transform"):
        sparsefx.allocate(sites(), {"macs": 0.5}, policy="same_latency")


@pytest.mark.parametrize("low", [0.0, 0.05])
def test_same_latency_never_keeps_less_for_more(low: float) -> None:
    lines = {"0.weight": PAIR["0.weight"]}  # the other was not measured
    one = {"params": sympy.Integer(1)}
    pair = [
        Site("0.weight", "0", "linear", (10, 10), one, min_density=low),
        Site("2.weight", "2", "linear", (10, 10), one, max_density=0.5),
    ]
    before = 0.0
    for budget in (60.0, 65.0, 90.0, 150.0):
        found = SameLatency(lines)(pair, budget, "params")
        assert found.cost <= budget
        assert found.densities["2.weight"] == 0.5
        assert found.densities["0.weight"] >= max(before, low)
        before = found.densities["0.weight"]
    assert before == 1.0


def test_the_lowered_model_is_timed_once(
    cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (layer_latency, latency_costs):
        monkeypatch.setattr(place, "can_compile", lambda device: False)
    model = net()
    before = {name: p.clone() for name, p in model.named_parameters()}
    found = Latencies(1.0, PAIR, {"0.weight": "a", "2.weight": "b"})
    share = latency_costs.lowered_share(model, (X,), found, sites(), 0.5)
    assert share > 0
    monkeypatch.setattr(latency_costs, "lower", None)  # would fail if called
    assert latency_costs.lowered_share(model, (X,), found, sites(), 0.5) == share
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
    assert model.training


def test_it_needs_inputs() -> None:
    class Any(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 3))
            self.fc = nn.Linear(3, 3)

        def forward(self, x, y):
            return self.fc(x) + y

    with pytest.raises(BudgetError, match="needs example_inputs"):
        sparsefx.transform(Any(), budget="3 ms")
