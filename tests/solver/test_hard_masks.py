"""Hard masks of several layers: exact counts, exact rules, bounds, ties."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx
from sparsefx.errors import BudgetError, MaskError
from sparsefx.kernels import kernels_for
from sparsefx.solver import hard_masks as greedy
from sparsefx.solver.greedy_purchase import Offer, Purse, buy
from sparsefx.solver.hard_masks import solve_hard
from sparsefx.solver.layer import Layer, total_cost
from sparsefx.solver.survey_bands import cuts
from tests import reference
from tests.networks import blocks, hard_masks, networks


@settings(max_examples=150)
@given(networks())
def test_hard_masks_equal_the_greedy_reference(network: Any) -> None:
    layers, budget = network
    masks = solve_hard(layers, budget)
    expected = reference.greedy(blocks(layers), budget)
    for layer, mask, wanted, count in zip(
        layers, hard_masks(layers, masks), expected, masks.counts, strict=True
    ):
        assert mask.tolist() == wanted.tolist()
        assert int(mask.sum()) == count
        assert layer.lower <= count <= layer.upper
    cost = total_cost(layers, masks.counts)
    assert cost <= budget * (1 + 1e-12)
    left = [x.price for x, n in zip(layers, masks.counts, strict=True) if n < x.upper]
    assert not left or budget - cost < max(left) * (1 + 1e-9)
    assert math.isfinite(masks.cutoff)
    for layer, (threshold, _) in zip(layers, masks.rules, strict=True):
        assert float(torch.tensor(threshold, dtype=layer.magnitude.dtype)) == threshold


@settings(max_examples=60)
@given(networks(), st.floats(1.0, 1.5))
def test_more_budget_keeps_a_superset(network: Any, factor: float) -> None:
    layers, budget = network
    less = hard_masks(layers, solve_hard(layers, budget))
    more = hard_masks(layers, solve_hard(layers, budget * factor))
    assert all(bool((b | ~a).all()) for a, b in zip(less, more, strict=True))


def test_no_room_above_the_largest_float() -> None:
    top = torch.finfo(torch.float32).max
    layers = [Layer(torch.tensor([top, 1.0]), 1.0, 1e-30, 0, 2)]
    masks = solve_hard(layers, 0.0)
    assert math.isfinite(masks.rules[0].threshold)
    assert not hard_masks(layers, masks)[0].any()


@pytest.mark.parametrize("price", [0.1, 0.3, 1 / 3, 7e-7, 1e6])
@pytest.mark.parametrize("kept", [1, 100, 333, 999])
def test_whole_budgets_are_spent_whole(price: float, kept: int) -> None:
    layers = [Layer(torch.rand(1000), price, 1.0, 0, 1000)]
    assert solve_hard(layers, kept * price).counts == (kept,)
    assert solve_hard(layers, kept / 1000 * (price * 1000)).counts == (kept,)


def test_a_quotient_that_rounds_up_buys_no_more_than_there_is() -> None:
    assert 7.7 / 1.1 == 7.0
    assert 7 * 1.1 > 7.7
    offer = Offer(torch.tensor([2.0, 1.0]), torch.tensor([10, 10]), torch.arange(2))
    assert buy(Purse(7.7, [1.1, 2.3]), [0, 0], offer) == ([6, 0], 2.0)


@settings(max_examples=150)
@given(networks(), st.data())
def test_bands_anywhere_change_nothing_but_time(
    network: Any, data: st.DataObject
) -> None:
    layers, budget = network
    flats = [layer.magnitude for layer in layers]
    ends = data.draw(
        st.lists(
            st.tuples(st.floats(0.0, 4.0, width=32), st.floats(0.0, 4.0, width=32)),
            min_size=len(layers),
            max_size=len(layers),
        )
    )
    lows, highs = zip(*map(sorted, ends), strict=True)
    survey = kernels_for(flats).survey(flats, lows, highs)
    assert solve_hard(layers, budget, survey=survey) == solve_hard(layers, budget)


def test_training_seldom_looks_for_masks_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse tails, in which thresholds lie above the cutoff; a budget that shrinks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))
    for layer, scale in ((net[0], 0.3), (net[2], 1.0)):
        with torch.no_grad():
            layer.weight.copy_(scale * torch.randn_like(layer.weight) ** 3 / 8)
    x, steps = torch.randn(64, 32), 60
    model = sparsefx.transform(
        net,
        "spartan",
        example_inputs=(x,),
        initial_budget=0.15,
        budget={"params": 0.03},
        total_steps=300,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    cold, find = [], greedy._from_histograms

    def counted(*given: Any) -> Any:
        cold.append(1)
        return find(*given)

    monkeypatch.setattr(greedy, "_from_histograms", counted)
    for _ in range(steps):
        (model(x) - x.repeat(1, 2)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsefx.step(model)
    assert len(cold) <= 3


def test_cuts_reach_from_the_threshold_to_the_cutoff() -> None:
    """But not where a layer keeps all it may: its own threshold decides there."""
    ramp = torch.arange(1.0, 2001.0)
    free, least = (Layer(ramp, 1.0, worth, 5, 2000) for worth in (1.0, 1e-3))
    most = Layer(ramp, 1.0, 1e3, 0, 7)
    layers = [free, least, most]
    masks = solve_hard(layers, 5.0 + 7.0 + 10.0)
    assert masks.counts == (10, 5, 7)
    assert masks.cutoff == 1990.0
    assert cuts(layers, masks) == (
        (1990.0, 1991.0),
        (1996.0, 1990.0 / 1e-3),
        (1994.0, 1994.0),
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_weights_are_named(bad: float) -> None:
    layers = [
        Layer(torch.rand(4), 1.0, 1.0, 0, 4),
        Layer(torch.tensor([0.1, bad, 0.3]), 1.0, 1.0, 0, 3),
    ]
    text = "weight 'fc1.weight' has NaN or infinite entries"
    with pytest.raises(MaskError, match=text):
        solve_hard(layers, 2.0, names=["fc0.weight", "fc1.weight"])
    with pytest.raises(MaskError, match="weight 'layer 1' has NaN"):
        solve_hard(layers, 2.0)


def test_infeasible_budget_names_the_range_and_the_layers() -> None:
    layers = [
        Layer(torch.rand(10), 2.0, 1.0, 5, 8),
        Layer(torch.rand(4), 1.0, 1.0, 0, 4),
    ]
    text = "budget 9.5 is outside the feasible range 10 to 20: the lower bounds of a "
    with pytest.raises(BudgetError, match=text):
        solve_hard(layers, 9.5, names=["a", "b"])
    with pytest.raises(BudgetError, match="budget nan"):
        solve_hard(layers, math.nan)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Layer(torch.rand(3).half(), 1.0, 1.0, 0, 3), "float32 or float64: upcast"),
        (Layer(torch.rand(3), 0.0, 1.0, 0, 3), "has price 0 and worth 1; both must"),
        (Layer(torch.rand(3), 1.0, math.nan, 0, 3), "has price 1 and worth nan"),
        (Layer(torch.rand(3), 1.0, 1.0, 2, 1), "has bounds 2 to 1; they must rise"),
        (Layer(torch.rand(3), 1.0, 1.0, 0, 4), "must rise and lie in 0 to 3"),
    ],
)
def test_ill_formed_layers(layer: Any, text: str) -> None:
    with pytest.raises(MaskError, match=text):
        solve_hard([layer], 2.0)
