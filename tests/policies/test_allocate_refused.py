"""What allocation refuses, and in which words."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sparsefx.errors import BudgetError, MaskError, PolicyError
from sparsefx.policies.allocate import run
from sparsefx.policies.allocation import Allocation
from sparsefx.policies.cost_budget import cost_budget
from sparsefx.policies.erk import erk
from sparsefx.policies.load_policy import load_policy
from sparsefx.policies.magnitude_worths import worths
from sparsefx.policies.uniform import uniform
from tests.policies.some_sites import site, sites_of


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda sites, budget: 3, PolicyError, "policy '<lambda>' answers int; return"),
        (
            lambda sites, budget: {},
            PolicyError,
            "the policy gives no density for l0, l1; give one, in [0, 1], for every",
        ),
        (
            lambda sites, budget: {one.name: 1.5 for one in sites},
            PolicyError,
            "density 1.5 of l0 is not allowed; give a kept fraction in [0, 1]",
        ),
        (
            lambda sites, budget: Allocation({}, {}, {}, 0, 0, 1),
            PolicyError,
            "gives l0.weight the density None; give a kept fraction in [0, 1]",
        ),
        (
            lambda sites, budget: {one.name: 1.0 for one in sites},
            BudgetError,
            "spends 20 macs, but the budget allows 5; lower its densities",
        ),
        (
            lambda sites, budget: {one.name: 0.05 for one in sites},
            PolicyError,
            "gives l0.weight densities from 0.05 to 0.05; its bounds allow 0.1 to 1",
        ),
    ],
)
def test_a_users_function_that_answers_nonsense(
    function: Callable[..., Any], error: type[Exception], message: str
) -> None:
    sites = sites_of([(10,), (10,)], low=0.1)
    with pytest.raises(error, match=re.escape(message)):
        run(load_policy(function), sites, {"macs": 5})


@pytest.mark.parametrize("policy", [cost_budget, uniform, erk])
def test_a_budget_below_what_dense_layers_cost(policy: Callable[..., Any]) -> None:
    sites = [
        site("stem.conv", (50,), 1, torch.ones(50), low=1.0),
        site("head.fc", (32,), 1, torch.ones(32), low=1.0),
        site("body", (918,), 1, torch.ones(918)),
    ]
    message = (
        "budget 0.05 is below the 0.082 that layers kept dense already cost "
        "(stem.conv, head.fc); raise budget to between 0.082 and 1 of the dense macs, "
        "or lower their min_density / shorten exclude"
    )
    with pytest.raises(BudgetError, match=re.escape(message)):
        policy(sites, 50)


def test_at_most_five_layers_are_blamed_largest_first() -> None:
    sites = [site(f"l{i}", (i + 1,), low=1.0) for i in range(7)]
    with pytest.raises(BudgetError, match=r"\(l6, l5, l4, l3, l2 and 2 more\)"):
        uniform(sites, 3)


def test_a_table_has_eight_of_the_layers_to_blame() -> None:
    with pytest.raises(BudgetError) as caught:
        uniform([site(f"l{i}", (i + 1,), low=1.0) for i in range(10)], 3)
    *_, last, rest = str(caught.value).splitlines()
    assert (last.split()[0], rest) == ("l2", "and 2 more")


def test_two_fractions_that_round_alike_are_told_apart() -> None:
    sites = [site("a", (10**6,), low=0.5)]
    with pytest.raises(BudgetError, match=r"budget 0\.499999 is below the 0\.5 that"):
        uniform(sites, 499_999)


def test_a_cost_nobody_pays() -> None:
    message = (
        "no selected layer costs any macs (emb), so a budget in macs has no effect; "
        "give the budget in another cost, for example params"
    )
    with pytest.raises(BudgetError, match=re.escape(message)):
        uniform([site("emb", (4,), 0)], 1)


def test_unknown_cost_and_no_site() -> None:
    message = "cost 'joules' is not known for a; allowed: macs, params"
    with pytest.raises(PolicyError, match=message):
        uniform([site("a", (4,))], 1, "joules")
    with pytest.raises(PolicyError, match="no site to allocate to; select at least"):
        uniform([], 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    sites = [
        site("good", (2,), 1, torch.ones(2)),
        site("bad", (2,), 1, torch.tensor([1.0, value])),
    ]
    with pytest.raises(MaskError, match=r"bad holds NaN or Inf in bad\.weight; masks"):
        cost_budget(sites, 2)


def test_the_global_policy_needs_weights() -> None:
    with pytest.raises(MaskError, match="a has no weight tensor; the cost_budget"):
        cost_budget([site("a", (4,))], 2)


def test_normalize_is_checked() -> None:
    message = "normalize 'batch' is not known; allowed: layer, global, none"
    with pytest.raises(PolicyError, match=message):
        worths([], "batch", "macs")
