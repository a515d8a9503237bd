"""Hard masks of several layers: exact counts, exact rules, bounds, ties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefx.dual import Layer, solve_hard
from tests import reference
from tests.networks import blocks, hard_masks, networks


@settings(max_examples=150)
@given(networks())
def test_hard_masks_equal_the_greedy_reference(network):
    layers, budget = network
    masks = solve_hard(layers, budget)
    expected = reference.greedy(blocks(layers), budget)
    for layer, mask, wanted, count in zip(
        layers, hard_masks(layers, masks), expected, masks.counts, strict=True
    ):
        assert mask.tolist() == wanted.tolist()
        assert int(mask.sum()) == count
        assert layer.lower <= count <= layer.upper
    assert masks.cost <= budget * (1 + 1e-12)
    left = [x.price for x, n in zip(layers, masks.counts, strict=True) if n < x.upper]
    assert not left or budget - masks.cost < max(left) * (1 + 1e-9)
    assert math.isfinite(masks.cutoff)
    for layer, threshold in zip(layers, masks.thresholds, strict=True):
        assert float(torch.tensor(threshold, dtype=layer.magnitude.dtype)) == threshold


@settings(max_examples=60)
@given(networks(), st.floats(1.0, 1.5))
def test_more_budget_keeps_a_superset(network, factor):
    layers, budget = network
    less = hard_masks(layers, solve_hard(layers, budget))
    more = hard_masks(layers, solve_hard(layers, budget * factor))
    assert all(bool((b | ~a).all()) for a, b in zip(less, more, strict=True))


def test_no_room_above_the_largest_float():
    top = torch.finfo(torch.float32).max
    layers = [Layer(torch.tensor([top, 1.0]), 1.0, 1e-30, 0, 2)]
    masks = solve_hard(layers, 0.0)
    assert math.isfinite(masks.thresholds[0])
    assert not hard_masks(layers, masks)[0].any()


@pytest.mark.parametrize("price", [0.1, 0.3, 1 / 3, 7e-7, 1e6])
@pytest.mark.parametrize("kept", [1, 100, 333, 999])
def test_whole_budgets_are_spent_whole(price, kept):
    layers = [Layer(torch.rand(1000), price, 1.0, 0, 1000)]
    assert solve_hard(layers, kept * price).counts == (kept,)
    assert solve_hard(layers, kept / 1000 * (price * 1000)).counts == (kept,)
