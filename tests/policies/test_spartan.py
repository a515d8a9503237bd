"""Spartan: the authors' behaviour, its corrections, and what steps report."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsefx
from sparsefx.errors import BudgetError, PolicyError
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.request import Request, Warm
from sparsefx.solver.solve import solve
from tests import models
from tests.made_once import made_once

X = torch.linspace(-1, 1, 6 * 8).reshape(6, 8).sin()


@made_once
def sparse_of(name="spartan_paper", net=None, **options):
    torch.manual_seed(0)
    settings = {"budget": 0.3, "total_steps": 20, **options}
    return sparsefx.transform(
        net or models.mlp(), name, example_inputs=(X,), **settings
    )


def weights_of(sparse):
    named = dict(sparse.named_parameters())
    return torch.cat(
        [named[site.name].detach().flatten() for site in sparsefx.sites(sparse)]
    )


def test_beta_is_raw_and_the_mask_that_of_the_projection() -> None:
    """Against `project`, which the golden vectors check."""
    sparse = sparse_of(total_steps=None, beta=5.0)
    weights = weights_of(sparse).double()
    state = sparse._sparsefx.weights
    target = sparse._sparsefx.plan.targets[0]
    mask, mu = sparsefx.project(
        weights.abs(), 1.0, target.limit - target.fixed, beta=5.0
    )
    assert float(state.dual[0]) == pytest.approx(float(mu), rel=1e-5)
    assert state.slope.tolist() == [5.0, 5.0]
    found = torch.sigmoid(5.0 * weights.abs() + state.dual[0])
    torch.testing.assert_close(found, mask, rtol=1e-5, atol=1e-7)


def test_the_target_is_adjusted_for_unmasked_parameters() -> None:
    """G6: of 100 parameters 80 are masked, 30 may stay: 10 masked ones."""
    net = nn.Sequential(nn.Linear(8, 10))
    net[0].bias = nn.Parameter(torch.zeros(10))
    net.register_parameter("rest", nn.Parameter(torch.zeros(10)))
    sparse = sparse_of(net=net, total_steps=None)
    assert (
        float(torch.stack([m.float().mean() for m in sparsefx.masks(sparse).values()]))
        == 0.125
    )
    budgets = sparsefx.report(sparse).to_dict()["budgets"]
    assert budgets == {"params": {"limit": 30, "kept": 30, "met": True}}
    assert sparsefx.step(sparse).hard_cost == 30
    with pytest.raises(BudgetError, match="not allowed; give a finite cost above 0"):
        sparse_of(net=net, budget=0.2)
    plain = sparse_of("spartan", net=net, total_steps=None, budget_of="maskable")
    assert sparsefx.report(plain).to_dict()["budgets"]["params"]["limit"] == 24


@pytest.mark.parametrize(
    ("values", "count"),
    [
        (torch.ones(100), 100),  # ties: everything
        (torch.zeros(100), 100),
        (torch.arange(100.0), 10),  # an integral budget: exactly that
        (torch.arange(100.0) // 6, 10),
        (torch.arange(100.0) // 8, 12),
    ],
)
def test_ties_at_the_threshold_are_kept(values: Tensor, count: int) -> None:
    net = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        net.weight.copy_(values.view(10, 10))
    paper = sparse_of_wide(net, "spartan_paper")
    assert int(sparsefx.masks(paper)["weight"].sum()) == count
    ours = sparse_of_wide(net, "spartan")
    assert int(sparsefx.masks(ours)["weight"].sum()) == 10


def sparse_of_wide(net, name):
    return sparsefx.transform(
        net, name, budget={"params": 0.1}, example_inputs=(torch.ones(2, 10),)
    )


@st.composite
def problems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    values = [torch.tensor(rng.integers(0, 9, n) / 8.0).float() for n in sizes]
    prices = [float(rng.choice([1.0, 2.0, 5.0])) for _ in sizes]
    total = sum(p * n for p, n in zip(prices, sizes, strict=True))
    return values, prices, draw(st.floats(0.05, 0.95)) * total


@given(problems())
def test_inclusive_is_the_first_prefix_that_reaches_the_budget(problem: Any) -> None:
    values, prices, budget = problem
    limits = Limits((tuple(prices),), (budget,), ("params",))
    request = Request(
        values=values,
        limits=limits,
        worths=lambda prices, sums: [1.0] * len(values),
        bounds=[(0, v.numel()) for v in values],
        beta=5.0,
        names=[str(i) for i in range(len(values))],
    )
    exact, found = solve(request), solve(replace(request, inclusive=True))
    units = np.concatenate(
        [v.double().numpy() / p for v, p in zip(values, prices, strict=True)]
    )
    costs = np.concatenate(
        [np.full(v.numel(), p) for v, p in zip(values, prices, strict=True)]
    )
    order = np.argsort(-units, kind="stable")
    place = np.searchsorted(np.cumsum(costs[order]), budget * (1 - 1e-12))
    kept = units >= units[order][min(place, len(units) - 1)]
    (spent,) = limits.spent(found.counts)
    assert spent == pytest.approx(float((costs * kept).sum()))
    assert spent >= budget * (1 - 1e-9)
    assert all(a >= b for a, b in zip(found.counts, exact.counts, strict=True))
    assert found.soft_costs == exact.soft_costs


def test_inclusive_needs_one_threshold() -> None:
    with pytest.raises(PolicyError, match="one threshold through all layers"):
        sparsefx.Policy(inclusive=True)
    with pytest.raises(PolicyError, match="one threshold through all layers"):
        sparsefx.load_policy("spartan_paper", allocation="erk")
    with pytest.raises(PolicyError, match="several budgets would not hold"):
        sparse_of(budget={"macs": 0.3, "params": 0.3})
    with pytest.raises(PolicyError, match=r"bounds of '2\.weight' would not hold"):
        sparse_of(layers={"2": {"max_density": 0.1}})


@pytest.mark.parametrize("name", ["spartan", "spartan_paper"])
def test_steps_report_costs_changes_and_the_shrink(name: str) -> None:
    sparse = sparse_of(name, total_steps=20)
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.5)
    before = sparsefx.masks(sparse)
    for number in range(1, 21):
        sparse(X).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        report = sparsefx.step(sparse)
        after = sparsefx.masks(sparse)
        moved = sum(int((before[k] ^ after[k]).sum()) for k in after)
        assert report.changed == moved / 192
        before = after
        if number >= 16:
            assert report.frozen
            continue
        assert report.soft_cost == pytest.approx(report.budget, rel=1e-5)
        state = sparse._sparsefx.weights
        kept = torch.cat([m.flatten() for m in after.values()])
        slope = torch.repeat_interleave(state.slope, torch.tensor([128, 64]))
        center = torch.repeat_interleave(state.center, torch.tensor([128, 64]))
        mu = torch.repeat_interleave(state.mu.detach(), torch.tensor([128, 64]))
        soft = torch.sigmoid(slope * (weights_of(sparse).abs() - center) + mu)
        mean = float(soft[kept].mean())
        assert report.kept_mask_mean == pytest.approx(mean, rel=1e-5)
    assert report.hard_cost <= report.budget + 1


def test_beta_does_not_depend_on_the_example_batch() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 4))
    slopes = [
        sparsefx.transform(
            net,
            "spartan_paper",
            example_inputs=(torch.ones(batch, 2, 8, 8),),
            cost="macs",
            budget_of="maskable",
        )._sparsefx.weights.slope.tolist()
        for batch in (1, 4, 16)
    ]
    assert slopes[0] == pytest.approx([20 / 36, 20])  # as many uses, as one example has
    assert slopes[1] == slopes[2] == slopes[0]


def test_blocks_sharpen_the_final_beta_alone() -> None:
    """The authors' schedule: from 1 to 16 * 20, not from 16."""
    wide = nn.Linear(64, 64, bias=False)
    sparse = sparsefx.transform(
        wide,
        "spartan_paper",
        example_inputs=(torch.ones(2, 64),),
        granularity="block:16x16",
        budget=0.5,
        total_steps=1000,
    )
    state = sparse._sparsefx.weights
    for number in (1, 2):
        sparsefx.step(sparse)
        assert float(state.slope) == pytest.approx(1 + number / 800 * (16 * 20 - 1))


def test_layers_held_at_a_bound_start_where_they_were() -> None:
    """Warm, the shared multiplier and those of held layers are known: two sweeps."""
    weights = [scale * torch.randn(3000) for scale in (1.0, 0.01, 0.02)]
    request = Request(
        values=weights,
        limits=Limits(((1.0,) * 3,), (700.0,), ("params",)),
        worths=lambda prices, sums: prices,
        bounds=[(0, 3000), (100, 3000), (60, 3000)],
        beta=5.0,
        names="abc",
    )
    cold = solve(request)
    assert cold.counts[1:] == (100, 60)
    assert len({site.group for site in cold.sites}) == 3
    known = Warm.after(cold, 5.0)
    warm, half = solve(request, known), solve(request, replace(known, middles=()))
    assert warm.sweeps <= 2 < half.sweeps
    assert warm.soft_costs == pytest.approx(cold.soft_costs, rel=2e-6)
