"""What every policy function and preset promises: a new one is under it at once."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import sympy
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import sparsefx
from sparsefx.errors import BudgetError
from sparsefx.masking.site import Site
from sparsefx.policies import ALLOCATIONS
from sparsefx.policies.allocate import run
from sparsefx.policies.policy_function import PolicyFunction, by_weights
from sparsefx.policies.unit_bounds import bounds
from sparsefx.policies.whole_units import counts
from tests.policies.some_sites import (
    READY,
    dense_of,
    problems,
    site,
    sites_of,
    spent,
)

SLACK = 1 + 1e-9
Problem = tuple[list[Site], float, float]
every = pytest.mark.parametrize("function", READY.values(), ids=READY)
POLICY = sparsefx.load_policy("layerwise", densities={"*": 1e-12})
fixing = pytest.mark.parametrize("name", ["uniform", "erk", "er"])
LAW = settings(max_examples=40)


def plan_of(function: PolicyFunction, sites: Sequence[Site], **budgets: float) -> Any:
    """What a function answers, as it is asked everywhere; costs by name."""
    return run(POLICY, sites, budgets, function)


def test_every_function_is_under_the_laws() -> None:
    assert set(READY) == set(ALLOCATIONS)


@every
@given(problems())
@settings(max_examples=60)
def test_counts_keep_every_promise(function: PolicyFunction, problem: Problem) -> None:
    """Within bounds and budget; where the plan is fixed, no weight more fits."""
    sites, budget, most = problem
    plan = plan_of(function, sites, macs=budget)
    assert plan.budget == budget
    assert plan.dense == pytest.approx(dense_of(sites))
    assert plan.cost <= budget * SLACK
    ranges = counts(plan, sites, {"macs": budget})
    for (low, high), one in zip(ranges, sites, strict=True):
        least, greatest = bounds(one)
        assert least <= low <= high <= greatest
        density = plan.densities[one.name]
        assert plan.lower[one.name] <= density <= plan.upper[one.name]
    kept = [low for low, _ in ranges]
    if by_weights(function):
        kept = [round(plan.densities[one.name] * one.numel) for one in sites]
        rows = zip(kept, ranges, strict=True)
        assert all(low <= n <= high for n, (low, high) in rows)
    else:
        assert all(low == high for low, high in ranges)
    total = spent(kept, sites)
    assert total <= budget * SLACK
    room = [
        one.cost("macs")
        for n, one in zip(kept, sites, strict=True)
        if n < bounds(one)[1] and one.cost("macs") > 0
    ]
    if room:  # a prefix ends at the first that does not fit
        assert budget - total < (max if by_weights(function) else min)(room) * SLACK
    else:
        assert total == pytest.approx(most)


@fixing
@given(problems())
@settings(max_examples=60)
def test_fixed_plans_spend_the_budget_exactly_within_bounds(
    name: str, problem: Problem
) -> None:
    sites, budget, most = problem
    plan = plan_of(READY[name], sites, macs=budget)
    assert plan.cost == pytest.approx(min(budget, most), rel=1e-9, abs=1e-9)
    for one in sites:
        low, high = bounds(one)
        density = plan.densities[one.name]
        assert low / one.numel - 1e-12 <= density <= high / one.numel + 1e-12
        if one.cost("macs") == 0:
            assert density == high / one.numel


@every
@given(problems(), st.floats(1, 3))
@LAW
def test_more_budget_never_keeps_less(
    function: PolicyFunction, problem: Problem, factor: float
) -> None:
    sites, budget, _ = problem
    less, more = (
        plan_of(function, sites, macs=budget),
        plan_of(function, sites, macs=budget * factor),
    )
    if by_weights(function):
        # what is worth most per cost comes first, but the last may not fit: a cheaper
        # one may come in its place
        dear = max(one.cost("macs") for one in sites)
        assert more.cost >= less.cost - dear
        return
    assert more.cost >= less.cost * (1 - 1e-6) - 1e-9
    if isinstance(function, type(READY["sensitivity"])):
        return
    for name, density in less.densities.items():
        assert more.densities[name] >= density - 1e-9


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1), st.floats(1, 3))
@LAW
def test_more_budget_never_lowers_a_density_where_weights_cost_the_same(
    seed: int, share: float, factor: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(6, 7, generator=generator) for _ in range(3)]
    sites = [site(f"l{i}", (6, 7), 3, weight) for i, weight in enumerate(weights)]
    budget = share * dense_of(sites)
    function = READY["cost_budget"]
    less, more = (
        plan_of(function, sites, macs=budget),
        plan_of(function, sites, macs=budget * factor),
    )
    assert all(more.densities[n] >= d for n, d in less.densities.items())


@every
@given(problems(ties=False), st.randoms(use_true_random=False))
@LAW
def test_the_order_of_sites_is_free(
    function: PolicyFunction, problem: Problem, random: object
) -> None:
    sites, budget, _ = problem
    order = list(sites)
    random.shuffle(order)
    there, back = (
        plan_of(function, sites, macs=budget),
        plan_of(function, order, macs=budget),
    )
    assert list(back.densities) == [one.name for one in order]
    assert there.densities == pytest.approx(back.densities, abs=1e-6)


@every
@given(problems(), st.integers(-20, 20))
@LAW
def test_the_unit_of_cost_is_free(
    function: PolicyFunction, problem: Problem, exponent: int
) -> None:
    sites, budget, _ = problem
    factor = sympy.Integer(2) ** exponent
    scaled = [
        replace(one, costs={n: c * factor for n, c in one.costs.items()})
        for one in sites
    ]
    there = plan_of(function, sites, macs=budget)
    back = plan_of(function, scaled, macs=budget * float(factor))
    assert there.densities == pytest.approx(back.densities, abs=1e-6)


@every
@given(problems())
@settings(LAW, max_examples=15)
def test_another_budget_only_takes(function: PolicyFunction, problem: Problem) -> None:
    """A second one holds as well; one that allows everything changes nothing."""
    sites, budget, _ = problem
    alone = plan_of(function, sites, macs=budget)
    dense = dense_of(sites, "params")
    both = plan_of(function, sites, macs=budget, params=1.1 * dense)
    assert both.densities == pytest.approx(alone.densities, abs=1e-6)
    assert both.others["params"][1:] == pytest.approx((1.1 * dense, dense))
    least = spent([bounds(one)[0] for one in sites], sites, "params")
    params = spent([alone.densities[s.name] * s.numel for s in sites], sites, "params")
    assume(params > least > 0)
    tight = {"macs": budget, "params": 0.5 * (least + params)}
    both = plan_of(function, sites, **tight)
    assert both.cost <= budget * SLACK
    assert both.others["params"][0] <= tight["params"] * SLACK
    turned = plan_of(function, sites, **dict(reversed(tight.items())))
    kept = [
        spent([p.densities[s.name] * s.numel for s in sites], sites, "params")
        for p in (both, turned)
    ]
    slack = 1e-6 * dense if not by_weights(function) else len(sites)
    assert abs(kept[0] - kept[1]) <= slack


@every
def test_more_than_everything_is_everything(function: PolicyFunction) -> None:
    sites = [site(f"l{i}", (4,), 1, torch.ones(4)) for i in range(2)]
    found = plan_of(function, sites, macs=1e9).densities
    assert found == pytest.approx({"l0.weight": 1.0, "l1.weight": 1.0}, abs=1e-6)


@pytest.mark.parametrize("name", ["cost_budget", "uniform", "erk"])
def test_layers_that_cost_nothing_stay_whole(name: str) -> None:
    free = site("emb", (8, 4), 0, torch.ones(8, 4))
    paid = site("fc", (4, 4), 1, torch.arange(16.0).reshape(4, 4))
    plan = plan_of(READY[name], [free, paid], macs=8)
    assert plan.densities == {"emb.weight": 1.0, "fc.weight": 0.5}


@every
def test_a_budget_below_what_dense_layers_cost(function: PolicyFunction) -> None:
    sites = [
        site("l0", (50,), 1, torch.ones(50), low=1.0),
        site("l1", (950,), 1, torch.ones(950)),
    ]
    assert plan_of(function, sites, macs=50).densities["l0.weight"] == 1.0
    with pytest.raises(BudgetError, match=r"49"):
        plan_of(function, sites, macs=49)


@every
@pytest.mark.parametrize("budget", [0, -1, math.nan, math.inf])
def test_budgets_that_are_no_cost(function: PolicyFunction, budget: float) -> None:
    sites = [site("l0", (4,), 1, torch.ones(4))]
    with pytest.raises(BudgetError, match=r"is not allowed; give a finite cost above"):
        plan_of(function, sites, macs=budget)


@pytest.mark.parametrize("preset", sparsefx.policies())
@pytest.mark.parametrize("cost", ["macs", "params"])
def test_presets_spend_what_they_may(preset: str, cost: str) -> None:
    """The allocation of every preset, however its masks will move."""
    function = READY[str(sparsefx.load_policy(preset).allocation)]
    sites = sites_of([(6, 8), (4, 6), (5, 4)])
    sites = [replace(s, weight=torch.randn(s.shape)) for s in sites]
    for share in (0.1, 0.3, 0.9):
        plan = run(POLICY, sites, {cost: share * dense_of(sites, cost)}, function)
        assert plan.budget == pytest.approx(share * dense_of(sites, cost))
        assert plan.cost <= plan.budget * SLACK
        assert plan.cost > plan.budget - 2
