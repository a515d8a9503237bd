"""What learners are told while a model trains, by learners that listen."""

import functools
import itertools
import math

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx import Learner
from sparsefx.learners import Decision, Situation
from sparsefx.learners.choose_entries import affordable
from sparsefx.policies.erk import erk
from sparsefx.policies.whole_units import counts
from tests import models
from tests.grouped_models import sparse_of as grouped
from tests.unit_networks import Gelu

PARTS = pytest.mark.parametrize("part", ["weights", "units"])
X = torch.linspace(-1, 1, 6 * 8).reshape(6, 8).sin()
STEPS = 4


def net() -> nn.Module:
    """Groups of units of different size and scale."""
    torch.manual_seed(0)
    model = nn.Sequential(Gelu(8, 6), Gelu(8, 20))
    model[0].fc1.weight.data *= 100
    return model


@functools.cache
def heard(part: str, **options: float) -> list[Situation]:
    """What a learner is told at the start and at each step of a linear ramp."""
    found: list[Situation] = []

    def listen(situation: Situation) -> Decision:
        found.append(situation)
        return Decision(affordable(situation))

    reads = frozenset({"beta", "beta_initial", "beta_ramp"})
    learner = Learner(name="listener", decide=listen, part=part, reads=reads)
    ramps = {"budget_ramp": "linear", "end_step": STEPS, "freeze_step": 8}
    sparse = sparsefx.transform(
        net(),
        {"learner": learner, "total_steps": 8, "beta": 9.0, **ramps, **options},
        example_inputs=(X,),
        budget=0.5,
    )
    for _ in range(STEPS):
        sparse(X).square().sum().backward()
        sparsefx.step(sparse)
    return found


@PARTS
def test_each_update_has_a_seed_of_its_own(part: str) -> None:
    one, other = ([s.seed for s in heard(part, seed=n)] for n in (0, 1))
    assert len(one) == 1 + STEPS
    assert len(set(one[1:])) == STEPS  # the start and the first update share one
    assert all(a != b for a, b in zip(one, other, strict=True))


@PARTS
def test_beta_follows_its_ramp(part: str) -> None:
    assert [s.beta for s in heard(part, seed=0)] == [1.0, 2.0, 3.0, 4.0, 5.0]


@PARTS
def test_the_budget_falls_from_where_it_is_told_to(part: str) -> None:
    whole = [s.budget for s in heard(part, seed=0)]
    steps = [a - b for a, b in itertools.pairwise(whole)]
    assert steps == pytest.approx([steps[0]] * STEPS)
    assert steps[0] > 0
    later = [s.budget for s in heard(part, initial_budget=0.75)]
    assert later[-1] == pytest.approx(whole[-1])
    assert later[0] == pytest.approx(whole[STEPS // 2])  # half way from 1 to 0.5


def test_units_count_by_their_size_within_the_group() -> None:
    """The mean unit of a group is worth its price: scale alone is no merit."""
    first = heard("units", seed=0)[0]
    rows = list(zip(first.values, first.worths, first.prices, strict=True))
    for value, worth, price in rows:
        assert worth * float(value.mean()) == pytest.approx(price)
    sizes = [float(value.mean()) for value, _, _ in rows]
    assert max(sizes) > 10 * min(sizes)


def test_sparse_granet_starts_with_the_densities_of_erk() -> None:
    sparse = sparsefx.transform(
        models.mlp(), "granet_sparse", example_inputs=(X,), budget=0.1, total_steps=900
    )
    sites = sparsefx.sites(sparse)
    half = 0.5 * sum(site.numel for site in sites)
    plan = erk(sites, half, "params")
    found = [int(mask.sum()) for mask in sparsefx.masks(sparse).values()]
    assert found == [low for low, _ in counts(plan, sites, {"params": half})]
    shares = [n / site.numel for n, site in zip(found, sites, strict=True)]
    assert max(shares) > min(shares) + 0.05  # uniform ones would be equal


@pytest.mark.parametrize(
    ("granularity", "sizes"), [("block:2x4", (8, 8)), ("channel", (16, 12))]
)
def test_beta_is_sharper_for_means_of_many_weights(
    granularity: str, sizes: tuple[int, int]
) -> None:
    """Means of n weights spread less than the weights, by the root of n."""

    def slopes(granularity: str) -> list[float]:
        sparse = grouped(granularity, normalize="none", cost="params", budget=0.8)
        found: list[float] = sparse.get_submodule("_sparsefx.weights").slope.tolist()
        return found

    pairs = zip(slopes("unstructured"), sizes, strict=True)
    wanted = [slope * math.sqrt(size) for slope, size in pairs]
    assert slopes(granularity) == pytest.approx(wanted)
