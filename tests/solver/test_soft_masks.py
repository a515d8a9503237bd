"""One budget over several layers: exact soft cost, bounds, own multipliers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsefx.solver.hard_masks import solve_hard
from sparsefx.solver.layer import Layer, total_cost
from sparsefx.solver.request import Warm
from tests import reference
from tests.networks import (
    best_unit,
    blocks,
    bound_costs,
    hard_masks,
    networks,
    precisely,
    soft_cost,
    soft_masks,
    softly,
)

RTOL = 1e-6


@settings(max_examples=150)
@given(networks(), st.floats(-2, 4))
def test_soft_budget_and_bounds(network: Any, exponent: float) -> None:
    layers, budget = network
    masks = softly(layers, budget, 10.0**exponent)
    assert abs(soft_cost(layers, masks) - budget) <= RTOL * budget
    told = total_cost(layers, masks.kept)
    assert told == pytest.approx(soft_cost(layers, masks), rel=3e-7)
    for layer, kept in zip(layers, masks.kept, strict=True):
        assert layer.lower * (1 - RTOL) <= kept <= layer.upper * (1 + RTOL)
    for layer, group in zip(layers, masks.groups, strict=True):
        assert group > 0 or layer.lower < layer.upper
    alone = [group for group in masks.groups if group]
    assert len(alone) == len(set(alone))


@settings(max_examples=40)
@given(networks(kinds=("smooth", "levels", "equal")), st.floats(-1, 3))
def test_soft_masks_equal_the_reference(network: Any, exponent: float) -> None:
    layers, budget = network
    # in units of the values: the reference does not center, and would be too coarse
    beta = 10.0**exponent / (max(best_unit(x) for x in layers) or 1.0)
    least, most = bound_costs(layers)
    if not least * (1 + 1e-9) < budget < most * (1 - 1e-9):
        return
    layers = [
        Layer(x.magnitude.double(), x.price, x.worth, x.lower, x.upper) for x in layers
    ]
    with precisely(1e-12):
        masks = softly(layers, budget, beta)
    expected = reference.clamped(blocks(layers), budget, beta)
    for layer, mask, wanted, group, row in zip(
        layers,
        soft_masks(layers, masks),
        expected,
        masks.groups,
        masks.rows,
        strict=True,
    ):
        np.testing.assert_allclose(mask.numpy(), wanted, rtol=1e-4, atol=1e-7)
        variance = float((mask * (1 - mask)).sum())
        assert row.spread == pytest.approx(variance, rel=1e-9)
        if group == 0:  # the scalars stand for the shared multiplier
            z = beta * layer.worth / layer.price * layer.magnitude
            expected_mask = torch.sigmoid(z + masks.mu)
            torch.testing.assert_close(mask, expected_mask, rtol=1e-5, atol=1e-9)


@settings(max_examples=40)
@given(networks(kinds=("smooth", "levels"), spreads=(0.0, 1.0)))
def test_sharp_masks_reach_the_linear_program(network: Any) -> None:
    layers, budget = network
    layers = [
        Layer(x.magnitude.double(), x.price, x.worth, x.lower, x.upper) for x in layers
    ]
    if budget == 0.0:
        return
    best = reference.linear_program(blocks(layers), budget)
    if best <= 0.0:
        return
    # the entropy term is worth at most log(2) * cost / beta
    total = sum(x.price * x.magnitude.numel() for x in layers)
    masks = soft_masks(layers, softly(layers, budget, 1e8 * total / best))
    value = sum(
        x.worth * float((x.magnitude * m).sum())
        for x, m in zip(layers, masks, strict=True)
    )
    assert value == pytest.approx(best, rel=2e-6)


@settings(max_examples=40)
@given(networks(bounds=False), st.floats(-1, 3), st.randoms(use_true_random=False))
def test_permuting_weights_permutes_masks(
    network: Any, exponent: float, random: Any
) -> None:
    layers, budget = network
    layers = [
        Layer(
            x.magnitude + torch.arange(x.magnitude.numel()) * 0.013,
            x.price,
            x.worth,
            x.lower,
            x.upper,
        )
        for x in layers
    ]
    orders = [random.sample(range(n), n) for n in (x.magnitude.numel() for x in layers)]
    moved = [
        Layer(x.magnitude[order], x.price, x.worth, x.lower, x.upper)
        for x, order in zip(layers, orders, strict=True)
    ]
    if any(len(x.magnitude.unique()) < x.magnitude.numel() for x in layers):
        return
    before = hard_masks(layers, solve_hard(layers, budget))
    after = hard_masks(moved, solve_hard(moved, budget))
    for a, b, order in zip(before, after, orders, strict=True):
        assert torch.equal(b, a[order])
    before = soft_masks(layers, softly(layers, budget, 10.0**exponent))
    after = soft_masks(moved, softly(moved, budget, 10.0**exponent))
    for a, b, order in zip(before, after, orders, strict=True):
        torch.testing.assert_close(b, a[order], rtol=1e-4, atol=1e-5)


@settings(max_examples=40)
@given(networks(), st.integers(-20, 20), st.floats(-1, 3))
def test_the_unit_of_cost_is_free(
    network: Any, exponent: int, sharpness: float
) -> None:
    layers, budget = network
    unit, beta = 2.0**exponent, 10.0**sharpness
    scaled = [
        Layer(x.magnitude, x.price * unit, x.worth, x.lower, x.upper) for x in layers
    ]
    assert solve_hard(scaled, budget * unit).counts == solve_hard(layers, budget).counts
    before = soft_masks(layers, softly(layers, budget, beta))
    after = soft_masks(scaled, softly(scaled, budget * unit, beta * unit))
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@settings(max_examples=40)
@given(networks(), st.floats(-1, 3), st.floats(-3, 3))
def test_the_start_changes_nothing(network: Any, exponent: float, nudge: float) -> None:
    layers, budget = network
    masks = softly(layers, budget, 10.0**exponent)
    start = masks.mu * (1 + nudge) if math.isfinite(masks.mu) else nudge
    again = softly(
        layers, budget, 10.0**exponent, warm=Warm(dual=start, beta=10.0**exponent)
    )
    assert abs(soft_cost(layers, again) - budget) <= RTOL * budget
    same = softly(layers, budget, 10.0**exponent)
    assert same == masks


@pytest.mark.parametrize("density", [1.0, 1.5, 1.0 - 1e-14])
def test_dense_budget_is_bitwise_ones(density: float) -> None:
    layers = [
        Layer(torch.rand(30, 7), 0.1, 1.0, 0, 210),
        Layer(torch.rand(5), 3, 2, 1, 5),
    ]
    budget = density * (0.1 * 210 + 15)
    for mask in soft_masks(layers, softly(layers, budget, 5.0)):
        assert torch.equal(mask, torch.ones_like(mask))
    masks = solve_hard(layers, budget)
    assert masks.rules == ((-1.0, 209), (-1.0, 4))
    assert all(mask.all() for mask in hard_masks(layers, masks))


def test_no_budget_keeps_nothing() -> None:
    layers = [Layer(torch.rand(30), 1.0, 1.0, 0, 30)]
    masks = solve_hard(layers, 0.0)
    assert masks.counts == (0,)
    assert masks.rules[0].last == -1
    assert masks.rules[0].threshold > float(layers[0].magnitude.max())
    soft = softly(layers, 0.0, 5.0)
    assert not soft_masks(layers, soft)[0].any()
    assert soft.rows[0].offset == -math.inf


@pytest.mark.parametrize(
    "magnitude",
    [
        torch.full((1000,), 0.7),
        torch.zeros(1000),
        torch.rand(1000) * (torch.rand(1000) < 0.05),
        torch.randint(0, 16, (1000,)) / 16,
        torch.full((1000,), 1e-42),
    ],
    ids=["equal", "zero", "mostly zero", "levels", "denormal"],
)
@pytest.mark.parametrize("beta", [1.0, 20.0, 1e6])
def test_ties_keep_the_budget_exactly(magnitude: Tensor, beta: float) -> None:
    layers = [Layer(magnitude, 1.0, 1.0, 0, 1000)]
    masks = solve_hard(layers, 100.0)
    assert int(hard_masks(layers, masks)[0].sum()) == 100
    soft = softly(layers, 100.0, beta)
    assert abs(soft_cost(layers, soft) - 100.0) <= 1e-4


@pytest.mark.parametrize("beta", [100.0, 400.0, 1e4, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sharp_masks_just_above_a_gap(beta: float, dtype: torch.dtype) -> None:
    a = torch.cat([torch.linspace(0.3, 0.4, 1000), torch.linspace(0.0, 0.02, 9000)])
    layers = [Layer(a.to(dtype), 1.0, 1.0, 0, 10_000)]
    for budget in (1000.0, 1000.5):
        masks = softly(layers, budget, beta)
        assert abs(soft_cost(layers, masks) - budget) <= RTOL * budget
        assert masks.sweeps <= 60


def test_bounds_give_layers_their_own_multiplier() -> None:
    layers = [
        Layer(torch.rand(100), 1.0, 1.0, 0, 100),
        Layer(torch.rand(100) * 0.01, 1.0, 1.0, 20, 100),  # wants less
        Layer(torch.rand(100) + 5.0, 1.0, 1.0, 0, 30),  # wants more
        Layer(torch.rand(100), 1.0, 1.0, 40, 40),
        Layer(torch.rand(100), 1.0, 1.0, 100, 100),
        Layer(torch.rand(100), 1.0, 1.0, 0, 0),
        Layer(torch.rand(0), 1.0, 1.0, 0, 0),
    ]
    masks = softly(layers, 220.0, 20.0)
    assert masks.groups == (0, 1, 2, 3, 4, 5, 6)
    assert masks.kept == pytest.approx((30, 20, 30, 40, 100, 0, 0), rel=RTOL)
    certain = [(row.offset, row.spread) for row in masks.rows[4:]]
    assert certain == [(math.inf, 0.0), (-math.inf, 0.0), (-math.inf, 0.0)]
    assert solve_hard(layers, 220.0).counts == (30, 20, 30, 40, 100, 0, 0)


def test_several_chunks_and_any_layout() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(64, 128, 9, 9, generator=generator)  # 2.5 chunks
    w = w.to(memory_format=torch.channels_last)
    before = w.clone()
    layers = [Layer(w.abs(), 2.0, 3.0, 0, w.numel())]
    budget = 0.1 * 2.0 * w.numel()
    masks = solve_hard(layers, budget)
    (mask,) = hard_masks(layers, masks)
    assert int(mask.sum()) == masks.counts[0] == int(0.1 * w.numel())
    kept = w.abs().reshape(-1).topk(masks.counts[0]).values.min()
    assert masks.rules[0].threshold == float(kept)
    soft = softly(layers, budget, 20.0)
    assert abs(soft_cost(layers, soft) - budget) <= RTOL * budget
    assert soft.sweeps <= 5
    warm = softly(layers, budget, 20.02, warm=Warm(dual=soft.mu, beta=20.0))
    assert warm.sweeps <= 3
    assert torch.equal(w, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [1e3, 1e7, 1e11, 1e15])
def test_a_layer_held_among_ties_is_met_however_sharp(
    beta: float, dtype: torch.dtype
) -> None:
    """Its multiplier is counted from its threshold, so that rounding cannot move it."""
    ties = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0], dtype=dtype)
    layers = [Layer(ties, 1.0, 1.0, 1, 6), Layer(ties / 9, 1.0, 1.0, 3, 3)]
    masks = softly(layers, 4.0, beta)
    assert masks.kept == pytest.approx((1.0, 3.0), rel=RTOL)
