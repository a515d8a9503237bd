"""The door to the solver: one budget is several with one row; what is refused."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from sparsefx.errors import BudgetError, MaskError, PolicyError
from sparsefx.kernels.mask_rule import hard_mask, soft_mask
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.request import Request, Warm
from sparsefx.solver.solve import solve
from tests import reference
from tests.networks import networks

RTOL = 1e-6


def asked(layers: Any, rows: Any, amounts: Any, **options: Any) -> Request:
    """A request for these layers at their worths."""
    names = [f"layer {i}" for i in range(len(layers))]
    request = Request(
        values=[x.magnitude for x in layers],
        limits=Limits(
            tuple(map(tuple, rows)), tuple(amounts), tuple("abc"[: len(rows)])
        ),
        worths=lambda prices, sums: [x.worth for x in layers],
        bounds=[(x.lower, x.upper) for x in layers],
        beta=5.0,
        names=names,
    )
    return replace(request, **options)


@settings(max_examples=60)
@given(networks(spreads=(0.0, 1.0)))
def test_one_budget_is_the_greedy_purchase_and_is_met(network: Any) -> None:
    layers, budget = network
    prices = [x.price for x in layers]
    request = asked(layers, [prices], [budget])
    found = solve(request)
    blocks = [
        reference.Block(
            x.magnitude.double().numpy(), x.price, x.worth, x.lower, x.upper
        )
        for x in layers
    ]
    expected = reference.greedy(blocks, budget)
    for layer, site, wanted in zip(layers, found.sites, expected, strict=True):
        mask = hard_mask(layer.magnitude, site.threshold, site.last)
        assert mask.tolist() == wanted.tolist()
        assert site.kept == int(mask.sum())
        m = soft_mask(layer.magnitude, site.slope, site.center, site.mu).double()
        assert site.bought == pytest.approx(float(m[mask].sum()), rel=1e-5, abs=1e-9)
        spread = site.price * float((m * (1 - m)).sum())
        assert site.spread == pytest.approx(spread, rel=1e-3, abs=1e-6 * site.price)
    assert found.soft_costs == (pytest.approx(budget, rel=RTOL),)
    assert found.counts == tuple(site.kept for site in found.sites)


@settings(max_examples=25)
@given(networks(bounds=False, kinds=("smooth",), spreads=(0.0, 1.0)))
def test_a_budget_that_never_runs_out_changes_no_mask(network: Any) -> None:
    layers, budget = network
    if budget <= 0:
        return
    prices = [x.price for x in layers]
    one = solve(asked(layers, [prices], [budget]))
    plenty = 2.0 * sum(x.magnitude.numel() for x in layers)
    two = solve(asked(layers, [prices, [1.0] * len(layers)], [budget, plenty]))
    assert two.counts == one.counts
    assert two.soft_costs[0] == pytest.approx(one.soft_costs[0], rel=2e-6)
    for layer, a, b in zip(layers, one.sites, two.sites, strict=True):
        assert (a.threshold, a.last, a.price) == (b.threshold, b.last, b.price)
        first, second = (
            soft_mask(layer.magnitude.double(), s.slope, s.center, s.mu) for s in (a, b)
        )
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


def normal(*scales: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [scale * torch.randn(2000, generator=generator).double() for scale in scales]


def scaled(prices: Sequence[float], sums: Sequence[float]) -> list[float]:
    """Worths with which values over prices have mean 1 wherever something is paid."""
    paid = [i for i, price in enumerate(prices) if price > 0]
    total = math.fsum(sums[i] / prices[i] for i in paid)
    return [2000 * len(paid) / total] * len(prices)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_sites_that_cost_nothing_scarce_do_not_count(scale: float) -> None:
    """A third site, paid for by a budget that never runs out, moves no other mask."""
    rows, amounts = ((1.0, 4.0, 0.0), (0.0, 0.0, 1.0)), (900.0, 4000.0)
    seen = []

    def worths(prices: Sequence[float], sums: Sequence[float]) -> list[float]:
        seen.append(list(prices))
        return scaled(prices, sums)

    values = normal(1.0, 0.5, scale)
    request = Request(
        values, Limits(rows, amounts, ("a", "b")), worths, [(0, 2000)] * 3, 5.0, "xyz"
    )
    found = solve(request)
    assert seen[-1] == [1.0, 4.0, 0.0]
    alone = solve(
        Request(
            values[:2],
            Limits((rows[0][:2],), amounts[:1], ("a",)),
            scaled,
            [(0, 2000)] * 2,
            5.0,
            "xy",
        )
    )
    assert found.counts == (*alone.counts, 2000)
    for a, b in zip(alone.sites, found.sites, strict=False):
        assert b.bought == pytest.approx(a.bought, rel=1e-5)
        assert b.slope == pytest.approx(a.slope, rel=1e-6)


def test_what_is_known_saves_sweeps_and_changes_nothing() -> None:
    values = normal(1.0, 0.2, 3.0)
    for rows, amounts in (
        (((1.0, 2.0, 4.0),), (3000.0,)),
        (((1.0, 2.0, 4.0), (3.0, 1.0, 1.0)), (3000.0, 2000.0)),
    ):
        names = ("a", "b")[: len(rows)]
        request = Request(
            values, Limits(rows, amounts, names), scaled, [(0, 2000)] * 3, 5.0, "xyz"
        )
        cold = solve(request)
        warm = solve(request, Warm.after(cold, 5.0))
        assert warm.counts == cold.counts
        assert warm.sweeps < cold.sweeps
        assert warm.soft_costs == pytest.approx(cold.soft_costs, rel=2e-6)


def test_sites_without_a_price_or_a_choice_are_kept_whole() -> None:
    values = normal(1.0, 1.0, 1.0)
    limits = Limits(((0.0, 1.0, 2.0),), (4500.0,), ("macs",))
    bounds = [(0, 2000), (0, 2000), (2000, 2000)]
    found = solve(Request(values, limits, scaled, bounds, 5.0, "xyz"))
    assert found.counts == (2000, 500, 2000)
    assert [site.mu for site in found.sites[::2]] == [math.inf] * 2
    assert len({site.group for site in found.sites}) == 3
    assert found.soft_costs == (pytest.approx(4500.0, rel=RTOL),)
    short = replace(limits, amounts=(3000.0,))
    with pytest.raises(BudgetError, match="budget 3000 macs does not pay for what is"):
        solve(Request(values, short, scaled, bounds, 5.0, "xyz"))


def test_a_budget_of_nothing_leaves_what_is_free_of_it() -> None:
    values = normal(1.0, 1.0)
    limits = Limits(((1.0, 0.0), (0.0, 1.0)), (0.0, 9000.0), ("a", "b"))
    found = solve(Request(values, limits, scaled, [(0, 2000)] * 2, 5.0, "xy"))
    assert found.counts == (0, 2000)
    assert found.soft_costs == (0.0, 2000.0)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan, math.inf])
def test_beta_is_finite_and_positive(beta: float) -> None:
    with pytest.raises(
        MaskError, match=r"beta is .*; it must be a finite number above"
    ):
        asked([], [[]], [1.0], beta=beta)


def test_inclusive_masks_have_one_budget_and_no_bounds() -> None:
    one, two = (((1.0,),) * n for n in (1, 2))
    given_: dict[str, Any] = {"worths": scaled, "beta": 5.0, "names": ["fc.weight"]}
    values = normal(1.0)
    with pytest.raises(PolicyError, match="several budgets would not hold"):
        Request(
            values,
            Limits(two, (9.0, 9.0), ("a", "b")),
            bounds=[(0, 2000)],
            inclusive=True,
            **given_,
        )
    with pytest.raises(PolicyError, match=r"bounds of 'fc.weight' would not hold"):
        Request(
            values,
            Limits(one, (9.0,), ("a",)),
            bounds=[(0, 200)],
            inclusive=True,
            **given_,
        )
