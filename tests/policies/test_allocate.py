"""Allocation: golden densities, exact budgets, bounds, monotonicity."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsefx.policies.allocate import allocate
from sparsefx.policies.allocation import Allocation, planned
from sparsefx.policies.cost_budget import cost_budget
from sparsefx.policies.erk import erk
from sparsefx.policies.magnitude_worths import worths
from sparsefx.policies.policy import Policy
from sparsefx.policies.uniform import uniform
from sparsefx.policies.unit_bounds import bounds
from sparsefx.policies.whole_units import counts
from tests.policies.some_sites import dense_of, site, sites_of


@pytest.mark.parametrize(
    ("shapes", "fraction", "expected"),
    [
        (
            [(300, 784), (100, 300), (10, 100)],
            0.1,
            [0.0795677705, 0.2301886792, 1.0],
        ),
        (
            [(64, 3, 7, 7), (64, 64, 3, 3), (512, 512, 3, 3), (1000, 2048)],
            0.2,
            [1.0, 0.7605723066, 0.0913467206, 0.3114032764],
        ),
        (
            [(64, 3, 7, 7), (64, 64, 3, 3), (512, 512, 3, 3), (1000, 2048)],
            0.05,
            [0.4465858041, 0.1885469644, 0.02264498289, 0.07719731831],
        ),
    ],
)
def test_golden_erk(
    shapes: list[tuple[int, ...]], fraction: float, expected: list[float]
) -> None:
    sites = sites_of(shapes)
    plan = erk(sites, fraction * dense_of(sites, "params"), "params")
    assert list(plan.densities.values()) == pytest.approx(expected, abs=1e-9)


def test_erk_goes_by_the_sides_over_the_entries() -> None:
    found = erk([site("a", (1, 1)), site("b", (10, 10))], 10).densities
    assert found["a.weight"] == pytest.approx(10 * found["b.weight"])


def test_counts_hand_out_what_is_left_by_largest_fraction() -> None:
    pair = sites_of([(10,), (10,)])
    plan = planned([0.25, 0.27], pair, 5.2, "params")
    assert counts(plan, pair, {"params": 5.2}) == ((2, 2), (3, 3))
    tied = sites_of([(5,), (5,)])
    assert counts(uniform(tied, 5), tied, {"macs": 5}) == ((3, 3), (2, 2))


def test_counts_of_ranges_and_of_pinned_layers() -> None:
    pair = [site("a", (7,), low=0.5, high=0.9), site("b", (3,), low=0.5, high=0.5)]
    lower = {"a.weight": 0.5, "b.weight": 0.5}
    plan = Allocation(lower, {**lower, "a.weight": 0.9}, lower, 5, 5, 10)
    assert counts(plan, pair, {"macs": 5}) == ((4, 6), (1, 1))


def test_a_lower_bound_rounded_up_is_paid_for_by_the_others() -> None:
    pair = [site("a", (5,), low=0.5), site("b", (5,))]
    plan = planned([0.5, 0.4], pair, 4.5, "macs")
    assert counts(plan, pair, {"macs": 4.5}) == ((3, 3), (1, 1))


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_densities_that_are_counts_come_back(kept: int, numel: int) -> None:
    kept = min(kept, numel)
    one = site("a", (numel,), low=kept / numel, high=kept / numel)
    assert bounds(one) == (kept, kept)


def test_weights_decide_in_the_global_policy() -> None:
    first = site("a", (2, 2), 1, torch.tensor([[4.0, 1.0], [3.0, 0.1]]))
    second = site("b", (2, 2), 1, torch.tensor([[40.0, 10.0], [0.1, 0.1]]))
    raw = cost_budget([first, second], 3, normalize="none")
    assert raw.densities == {"a.weight": 0.25, "b.weight": 0.5}
    even = cost_budget([first, second], 3, normalize="layer")
    assert even.densities == {"a.weight": 0.5, "b.weight": 0.25}
    assert even.lower == {"a.weight": 0.0, "b.weight": 0.0}
    assert even.upper == {"a.weight": 1.0, "b.weight": 1.0}


def test_worths() -> None:
    first = site("a", (2,), 2, torch.tensor([1.0, -3.0]))
    second = site("b", (2,), 6, torch.tensor([8.0, 0.0]).bfloat16())
    free = site("c", (2,), 0, torch.tensor([100.0, 100.0]))
    sites = [first, second, free]
    assert worths(sites, "none", "macs") == [1, 1, 1]
    # sqrt(uses / fan_in) / mean|w|, then the mean of worth * mean|w| / price is 1
    raw = [2**0.5 / 2, 6**0.5 / 4, 1 / 100]
    scale = 2 / (raw[0] * 2 / 2 + raw[1] * 4 / 6)
    found = worths(sites, "layer", "macs")
    assert found == pytest.approx([scale * worth for worth in raw])
    # mean of |w| / price over the four that cost something is 5 / 6
    assert worths(sites, "global", "macs") == pytest.approx([6 / 5] * 3)
    zero = site("z", (2,), 2, torch.zeros(2))
    assert worths([zero], "global", "macs") == [1]


def test_layers_count_by_their_share_of_what_they_feed() -> None:
    wide = site("a", (4, 100), 1, torch.ones(4, 100))
    small = site("b", (4, 4), 1, torch.ones(4, 4))
    first, second = worths([wide, small], "layer", "macs")
    assert second / first == pytest.approx((100 / 4) ** 0.5)


@pytest.mark.parametrize("normalize", ["layer", "global"])
def test_worths_do_not_depend_on_the_scale_of_weights_and_prices(
    normalize: str,
) -> None:
    weight = torch.linspace(-1, 2, 12, dtype=torch.float64)
    small = [site("a", (12,), 3, weight), site("b", (12,), 5, 2 * weight)]
    large = [site("a", (12,), 30, 7 * weight), site("b", (12,), 50, 14 * weight)]
    units = [
        [w * m / s.cost("macs") for w, m, s in zip(ws, (1, 2), sites, strict=True)]
        for sites, ws in (
            (small, worths(small, normalize, "macs")),
            (large, [7 * w for w in worths(large, normalize, "macs")]),
        )
    ]
    assert units[0] == pytest.approx(units[1])


def test_allocate_reads_budgets_and_policies() -> None:
    sites = [site("a", (10, 10), 2), site("b", (10, 10), 4)]
    assert allocate(sites, "25%", policy="uniform").budget == 150
    assert allocate(sites, 0.25, policy="uniform", cost="params").budget == 50
    assert allocate(sites, {"params": 0.5}, policy="erk").budget == 100
    assert allocate(sites, "60 MACs", policy=Policy(allocation="uniform")).cost == (
        pytest.approx(60)
    )
    assert allocate(sites, {"macs + params": 0.5}, policy="uniform").budget == 400
    weighty = [site("a", (4,), 1, torch.arange(4.0))]
    plan = allocate(weighty, 0.5, policy="spartan", normalize="none")
    assert plan.densities == {"a.weight": 0.5}


def test_a_users_own_function() -> None:
    sites = sites_of([(10,), (10,)])

    def first_only(sites, budget):
        return {
            one.name: min(1.0, budget / 10) * (not i) for i, one in enumerate(sites)
        }

    def with_cost(sites, budget, cost):
        return planned([0.5, 0.0], sites, budget, cost)

    plan = allocate(sites, 0.25, policy=first_only)
    assert plan.densities == {"l0.weight": 0.5, "l1.weight": 0.0}
    assert (plan.cost, plan.budget, plan.dense) == (5, 5, 20)
    assert allocate(sites, 0.25, policy=with_cost) == plan


def test_an_allocation_is_a_table() -> None:
    text = str(uniform(sites_of([(10,), (10,)]), 5))
    assert text.splitlines() == [
        "site       density    lower    upper",
        "l0.weight   0.2500   0.2500   0.2500",
        "l1.weight   0.2500   0.2500   0.2500",
        "cost 5 of 5 allowed (25.0000% of dense 20)",
    ]
