"""Several budgets at once: promises, the linear program, laws, gradients."""

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from sparsefx.errors import BudgetError
from sparsefx.solver.hard_masks import solve_hard
from sparsefx.solver.hard_masks_joint import solve_hard_joint
from sparsefx.solver.joint_budgets import Limits, scope, shares_of
from sparsefx.solver.layer import Layer
from sparsefx.solver.soft_masks_joint import solve_soft_joint
from tests.networks import (
    KINDS,
    hard_masks,
    magnitudes,
    precisely,
    soft_masks,
    survey_of,
)

RTOL = 1e-6
EXAMPLES = int(os.environ.get("SPARSEFX_EXAMPLES", 6))  # hundreds for a long look
LAW = settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate])


@st.composite
def problems(
    draw, layers=(1, 10), budgets=(1, 3), kinds=KINDS, spreads=(0.0, 1.0, 4.0)
):
    """Layers and budgets between the costs of their bounds; costs may be 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    spread, found = draw(st.sampled_from(spreads)), []
    for _ in range(draw(st.integers(*layers))):
        size = int(rng.integers(1, 50))
        a = torch.from_numpy(magnitudes(kinds[rng.integers(len(kinds))], size, rng))
        if rng.random() < 0.2:
            a = a.bfloat16().double()
        low, high = 0, size
        if rng.random() < 0.4:
            low, high = sorted(rng.integers(0, size + 1, 2).tolist())
        worth = float(10.0 ** rng.uniform(-1, 1))
        found.append(Layer(a.to(dtype), 1.0, worth, low, high))
    rows = []
    for _ in range(draw(st.integers(*budgets))):
        row = 10.0 ** rng.uniform(-spread, spread, len(found))
        row *= rng.random(len(found)) > 0.1
        rows.append(tuple(map(float, row)) if row.any() else (1.0,) * len(found))
    names = tuple("abc"[: len(rows)])
    limits = Limits(tuple(rows), (1.0,) * len(rows), names)
    least = limits.spent([x.lower for x in found])
    most = limits.spent([x.upper for x in found])
    amounts = [
        low + float(rng.uniform(0.01, 1.1)) * (high - low) or 1.0
        for low, high in zip(least, most, strict=True)
    ]
    return found, replace(limits, amounts=tuple(amounts))


def solved(layers, limits, beta):
    """Hard masks, and soft ones at a beta in units of the mean unit value."""
    hard = centred(solve_hard_joint(layers, limits), 0.0)
    priced = [replace(x, price=p) for x, p in zip(layers, hard.prices, strict=True)]
    seen = survey_of(layers)
    total = sum(x.worth * s / x.price for x, s in zip(priced, seen.sums, strict=True))
    mean = total / sum(x.magnitude.numel() for x in layers) or 1.0
    priced = [replace(x, worth=x.worth / mean) for x in priced]
    return hard, priced, solve_soft_joint(priced, limits, hard, beta, survey=seen)


def centred(hard, cutoff):
    """The hard masks, with another unit value at which soft ones are 1/2."""
    return replace(hard, masks=replace(hard.masks, cutoff=cutoff))


def best(layers, limits):
    """The linear program by HiGHS, in units of the greatest value."""
    sizes = [x.magnitude.numel() for x in layers]
    value = np.concatenate([x.worth * x.magnitude.double().numpy() for x in layers])
    unit = value.max() or 1.0
    member = np.repeat(np.arange(len(layers)), sizes)
    costs = np.array(limits.costs)[:, member] / np.array(limits.amounts)[:, None]
    counts = np.stack([member == i for i in range(len(layers))]).astype(float)
    upper, lower = [x.upper for x in layers], [-x.lower for x in layers]
    answer = linprog(
        -value / unit,
        A_ub=np.concatenate([costs, counts, -counts]),
        b_ub=np.array([1.0] * len(limits.amounts) + upper + lower),
        bounds=(0, 1),
        method="highs",
        options={
            "primal_feasibility_tolerance": 1e-10,
            "dual_feasibility_tolerance": 1e-10,
        },
    )
    assert answer.success, answer.message
    return -answer.fun * unit


def worth_of(layers, masks):
    pairs = zip(layers, masks, strict=True)
    return sum(x.worth * float((x.magnitude.double() * m).sum()) for x, m in pairs)


@LAW
@given(problems(), st.floats(-1, 2.5))
def test_every_budget_and_every_bound_holds(problem: Any, exponent: float) -> None:
    layers, limits = problem
    hard, priced, soft = solved(layers, limits, 10.0**exponent)
    counts = hard.masks.counts
    assert limits.fit(counts)
    for layer, mask, count in zip(
        layers, hard_masks(layers, hard.masks), counts, strict=True
    ):
        assert int(mask.sum()) == count
        assert layer.lower <= count <= layer.upper
    # no entry could be added
    for i, layer in enumerate(layers):
        if any(row[i] for row in limits.costs) and counts[i] < layer.upper:
            more = [n + (i == j) for j, n in enumerate(counts)]
            alone = len(hard.scope.live) == 1 or sum(x > 0 for x in hard.x) == 1
            if i in hard.scope.free and not alone:
                assert not limits.fit(more)
    # the masks themselves, not what the solver says of them
    kept = [float(m.double().sum()) for m in soft_masks(priced, soft.masks)]
    for cost, amount in zip(limits.spent(kept), limits.amounts, strict=True):
        assert cost <= amount * (1 + RTOL)
    for layer, count in zip(layers, kept, strict=True):
        assert layer.lower * (1 - RTOL) <= count <= layer.upper * (1 + RTOL)
    if hard.scope.live and any(g == 0 for g in soft.masks.groups):
        spent = limits.spent(kept)[hard.leader]
        assert spent == pytest.approx(limits.amounts[hard.leader], rel=RTOL)


@LAW
@given(problems(spreads=(0.0, 1.0)))
def test_hard_masks_are_within_an_entry_a_budget_of_the_linear_program(
    problem: Any,
) -> None:
    layers, limits = problem
    masks = hard_masks(layers, solve_hard_joint(layers, limits).masks)
    wanted = best(layers, limits)
    top = max(x.worth * float(x.magnitude.max()) for x in layers)
    found = worth_of(layers, masks)
    assert found <= wanted * (1 + 1e-9) + 1e-12
    assert found >= wanted * (1 - 1e-3) - len(limits.amounts) * top


@LAW
@given(problems(kinds=("smooth", "levels"), spreads=(0.0, 1.0), layers=(1, 6)))
def test_sharp_soft_masks_reach_the_linear_program(problem: Any) -> None:
    layers, limits = problem
    layers = [replace(x, magnitude=x.magnitude.double()) for x in layers]
    wanted = best(layers, limits)
    if wanted <= 0:
        return
    # in units of the mean value, the entropy is worth at most log(2) / beta an entry
    hard, priced, soft = solved(layers, limits, 1e2)
    for exponent in range(3, 8):
        cutoff = -soft.masks.mu / 10.0 ** (exponent - 1)
        with precisely(1e-7):
            soft = solve_soft_joint(
                priced,
                limits,
                centred(hard, cutoff),
                10.0**exponent,
                survey=survey_of(layers),
                start=soft.x,
            )
    found = worth_of(layers, soft_masks(priced, soft.masks))
    assert found == pytest.approx(wanted, rel=1e-6)


@settings(LAW, max_examples=2)
@given(problems(layers=(30, 60), spreads=(1.0,)))
def test_many_layers(problem: Any) -> None:
    layers, limits = problem
    hard, _, soft = solved(layers, limits, 10.0)
    assert limits.fit(hard.masks.counts)
    for cost, amount in zip(limits.spent(soft.masks.kept), limits.amounts, strict=True):
        assert cost <= amount * (1 + RTOL)


@LAW
@given(problems(budgets=(1, 1)), st.floats(1.0, 4.0))
def test_a_budget_that_does_not_run_out_changes_nothing(
    problem: Any, slack: float
) -> None:
    layers, limits = problem
    alone = solve_hard_joint(layers, limits)
    spent = limits.spent([x.upper for x in layers])[0]
    loose = Limits(limits.costs * 2, (limits.amounts[0], slack * spent), ("a", "b"))
    both = solve_hard_joint(layers, loose)
    assert both.masks.counts == alone.masks.counts
    paid = [i for i, cost in enumerate(limits.costs[0]) if cost > 0]
    one = [replace(layers[i], price=limits.costs[0][i]) for i in paid]
    counts = solve_hard(one, limits.amounts[0]).counts
    assert [alone.masks.counts[i] for i in paid] == list(counts)


@LAW
@given(problems(budgets=(2, 3)), st.floats(1.0, 2.0))
def test_more_budget_is_never_worth_less(problem: Any, factor: float) -> None:
    layers, limits = problem
    more = replace(limits, amounts=tuple(factor * k for k in limits.amounts))
    values = [
        worth_of(layers, hard_masks(layers, solve_hard_joint(layers, x).masks))
        for x in (limits, more)
    ]
    top = max(x.worth * float(x.magnitude.max()) for x in layers)
    assert values[1] >= values[0] * (1 - 1e-3) - len(limits.amounts) * top


@LAW
@given(
    problems(budgets=(2, 3), kinds=("smooth",), spreads=(1.0,)), st.integers(-20, 20)
)
def test_units_of_cost_are_free(problem: Any, exponent: int) -> None:
    layers, limits = problem
    unit = 2.0**exponent
    rows = (tuple(unit * cost for cost in limits.costs[0]), *limits.costs[1:])
    amounts = (unit * limits.amounts[0], *limits.amounts[1:])
    scaled = Limits(rows, amounts, limits.names)
    first, second = (solved(layers, x, 10.0) for x in (limits, scaled))
    assert first[0].masks.counts == second[0].masks.counts
    for a, b in zip(first[2].masks.kept, second[2].masks.kept, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-4)


@LAW
@given(problems(budgets=(2, 3), kinds=("smooth",), spreads=(1.0,)))
def test_the_order_of_layers_is_free(problem: Any) -> None:
    layers, limits = problem
    order = list(reversed(range(len(layers))))
    first = solved(layers, limits, 10.0)
    second = solved([layers[i] for i in order], limits.of(order), 10.0)
    kept = [second[2].masks.kept[order.index(i)] for i in range(len(layers))]
    assert kept == pytest.approx(first[2].masks.kept, rel=1e-4, abs=1e-4)


def test_all_weights_equal_share_what_several_budgets_allow() -> None:
    layers = [Layer(torch.full((300,), 0.5), 1.0, 1.0, 0, 300) for _ in range(2)]
    limits = Limits(((1.0, 3.0), (3.0, 1.0)), (400.0, 400.0), ("a", "b"))
    assert solve_hard_joint(layers, limits).masks.counts == (100, 100)


def test_a_start_is_no_more_than_one() -> None:
    """Of multipliers that are known in part, or of a budget that never runs out."""
    layers = [Layer(torch.rand(90), 1.0, worth, 0, 90) for worth in (1.0, 2.0, 0.5)]
    rows = ((1.0, 3.0, 2.0), (3.0, 1.0, 1.0), (1.0, 1.0, 1.0))
    limits = Limits(rows, (140.0, 120.0, 999.0), ("a", "b", "c"))
    cold = solve_hard_joint(layers, limits)
    assert cold.scope.live == (0, 1)
    for start in (cold.x, (math.nan, 1.0, 0.0), (0.0, 0.0, 0.0)):
        again = solve_hard_joint(layers, limits, start=start)
        assert again.masks.counts == cold.masks.counts


def test_bounds_may_decide_alone() -> None:
    layers = [Layer(torch.ones(4), 1.0, 1.0, low, 4) for low in (1, 2, 0)]
    limits = Limits(((1.0, 1.0, 0.0), (0.0, 1.0, 1.0)), (3.0, 9.0), ("a", "b"))
    found = scope(layers, limits)
    assert (found.live, found.free) == ((), ())
    assert found.held == {0: 1, 1: 2, 2: 4}
    assert solve_hard_joint(layers, limits).masks.counts == (1, 2, 4)
    low = replace(limits, amounts=(2.0, 9.0))
    message = "budget 2 a is outside the feasible range 3 to 8: the lower bounds alone"
    with pytest.raises(BudgetError, match=message):
        scope(layers, low)


def test_prices_are_the_only_scarce_cost_or_a_mixture() -> None:
    limits = Limits(((1.0, 2.0), (3.0, 0.0)), (10.0, 6.0), ("a", "b"))
    assert shares_of(limits, (2.0, 0.0)) == [1.0, 2.0]
    mixed = shares_of(limits, (1.0, 1.0))
    unit = math.sqrt(10.0 * 6.0)
    assert mixed == pytest.approx([unit * (0.1 + 0.5) / 2, unit * 0.2 / 2])
