"""What every learner promises, whatever the situation: a new one is under it at once.

How a life of training goes under each of them, `tests/training/test_laws.py` says.
"""

import copy
import math
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.learners import LEARNERS, Decision, Learner, Situation
from sparsefx.learners.choose_entries import affordable
from sparsefx.learners.units import even_counts
from tests.learners.situations import (
    ASKED,
    BY_VALUE,
    MOVING,
    beginnings,
    counts,
    decided,
    updates,
)
from tests.reference import Block, greedy, soft_topk

SLACK = 1 + 1e-9
every = pytest.mark.parametrize("learner", ASKED, ids=lambda a: a.name)
by_value = pytest.mark.parametrize("learner", BY_VALUE, ids=lambda a: a.name)
moving = pytest.mark.parametrize("learner", MOVING, ids=lambda a: a.name)


def same(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def rows_of(situation: Situation) -> list[tuple[Any, ...]]:
    """Magnitudes, price, worth and limits of each site, for the references."""
    return [
        (value.abs().double().numpy(), price, worth, *limits)
        for value, price, worth, limits in zip(
            situation.values,
            situation.prices,
            situation.worths,
            situation.limits,
            strict=True,
        )
    ]


@every
@given(st.one_of(beginnings(), updates()))
def test_the_budget_is_met_and_bounds_are_kept(
    learner: Learner, situation: Situation
) -> None:
    found = counts(decided(learner, situation))
    assert situation.cost(found) <= situation.budget * SLACK
    rows = zip(found, situation.limits, situation.masks or found, strict=True)
    for count, (low, high), before in rows:
        held = isinstance(before, Tensor)  # of what was kept, no more is there
        assert min(low, int(before.count_nonzero()) if held else low) <= count <= high


@every
@given(st.one_of(beginnings(), updates()))
def test_it_is_a_pure_function(learner: Learner, situation: Situation) -> None:
    before = copy.deepcopy(situation)
    one, other = learner.answer(situation), learner.answer(situation)
    for pair in ((before, situation), (one, other)):
        for field in fields(pair[0]):
            assert same(*(getattr(value, field.name) for value in pair)), field.name


@every
@given(updates())
def test_nothing_moves_when_nothing_is_to_move(
    learner: Learner, situation: Situation
) -> None:
    quiet = replace(situation, drop_fraction=0.0)
    if not learner.drawn:  # it answers by value, and will stay at that
        quiet = replace(quiet, masks=decided(learner, quiet))
    assert same(decided(learner, quiet), quiet.masks)


@by_value
@given(beginnings(ties=False), st.randoms(use_true_random=False))
def test_the_order_of_sites_is_free(
    learner: Learner, situation: Situation, random: object
) -> None:
    order = list(range(len(situation.values)))
    random.shuffle(order)
    changed = {
        name: [getattr(situation, name)[i] for i in order]
        for name in ("names", "values", "prices", "worths", "limits", "starts")
    }
    found = decided(learner, situation)
    assert same(
        [found[i] for i in order], decided(learner, replace(situation, **changed))
    )


@by_value
@given(beginnings(), st.integers(-20, 20), st.integers(-20, 20))
def test_signs_and_units_are_free(
    learner: Learner, situation: Situation, value: int, cost: int
) -> None:
    scaled = replace(
        situation,
        values=[v * -(2.0**value) for v in situation.values],
        prices=[p * 2.0**cost for p in situation.prices],
        worths=[w * 2.0**cost for w in situation.worths],
        budget=situation.budget * 2.0**cost,
    )
    assert same(decided(learner, situation), decided(learner, scaled))


@by_value
@given(beginnings())
def test_it_buys_what_is_worth_most_per_cost(
    learner: Learner, situation: Situation
) -> None:
    """The greedy reference; learners of units go on to what still fits."""
    blocks = [Block(*row) for row in rows_of(situation)]
    wanted = greedy(blocks, situation.budget, skipping=learner.part == "units")
    assert same(decided(learner, situation), [torch.from_numpy(m) for m in wanted])


@given(beginnings())
def test_soft_gates_are_the_soft_top_k(situation: Situation) -> None:
    answer = LEARNERS["units_soft_topk"].answer(situation)
    rows = rows_of(situation)
    value = np.concatenate([size * worth for size, _, worth, *_ in rows])
    price = np.concatenate([np.full(len(size), p) for size, p, *_ in rows])
    if situation.budget >= price.sum():
        return
    mask, _ = soft_topk(value, price, situation.budget, situation.beta)
    hard = torch.cat(list(answer.masks))
    wanted = torch.from_numpy(mask).where(hard, 0.0)
    assert answer.gates is not None
    gates = torch.cat(list(answer.gates)).double()
    torch.testing.assert_close(gates, wanted, atol=1e-6, rtol=1e-5)


@by_value
def test_what_costs_nothing_is_kept(learner: Learner) -> None:
    free = Situation(
        names=["a", "b"], values=[torch.ones(3), torch.ones(3)], prices=[0.0, 1.0],
        worths=[1.0, 1.0], limits=[(1, 3), (1, 3)], budget=2.0,
    )  # fmt: skip
    if learner.part == "weights":
        assert counts(decided(learner, free)) == [3, 2]


@given(beginnings())
def test_even_counts_are_the_densest_that_the_budget_pays(situation: Situation) -> None:
    sizes = [value.numel() for value in situation.values]

    def clipped(density: Fraction) -> list[int]:
        pairs = zip(sizes, situation.limits, strict=True)
        return [min(max(int(density * n), low), high) for n, (low, high) in pairs]

    densities = {Fraction(k, n) for n in sizes for k in range(n + 1)}
    paid = (
        density
        for density in sorted(densities, reverse=True)
        if situation.cost(clipped(density)) <= situation.budget * (1 + 1e-12)
    )
    assert even_counts(situation) == clipped(next(paid))


@pytest.mark.parametrize("learner", [a for a in ASKED if a.drawn], ids=lambda a: a.name)
@given(beginnings())
def test_first_masks_are_drawn_by_the_seed(
    learner: Learner, situation: Situation
) -> None:
    found = decided(learner, situation)
    if learner.part == "weights":
        assert counts(found) == list(situation.starts)
    others = [value + 1 for value in situation.values]
    assert same(found, decided(learner, replace(situation, values=others)))


def test_another_seed_draws_other_masks() -> None:
    wide = Situation(
        names=["w"], values=[torch.ones(99)], prices=[1.0], worths=[1.0],
        limits=[(1, 99)], budget=40.0, starts=[40],
    )  # fmt: skip
    for learner in (a for a in ASKED if a.drawn):
        assert not same(
            *(decided(learner, replace(wide, seed=seed)) for seed in (0, 1))
        )


@moving
@given(updates(ties=False))
def test_the_least_go_and_others_come(learner: Learner, situation: Situation) -> None:
    """Counts stay; ``ceil(fraction * n)`` move; by score those of the greatest."""
    rows = zip(
        situation.masks or (),
        decided(learner, situation),
        situation.values,
        situation.scores,
        strict=True,
    )
    for old, new, value, score in rows:
        kept, free = int(old.count_nonzero()), int((~old).count_nonzero())
        number = min(math.ceil(situation.drop_fraction * kept - 1e-9), free)
        gone, come = old & ~new, new & ~old
        assert counts([gone, come]) == [number, number]
        size = value.abs()
        if number and number < kept:
            assert size[gone].max() <= size[old & new].min()
        if learner.scores and number and number < free:
            assert score is not None
            assert score[come].min() >= score[~old & ~new].max()


@moving
@given(updates(), st.integers(0, 3))
def test_a_site_without_a_score_stays(
    learner: Learner, situation: Situation, index: int
) -> None:
    index %= len(situation.values)
    scores = [s if i != index else None for i, s in enumerate(situation.scores)]
    found = decided(learner, replace(situation, scores=scores))
    if learner.scores:
        assert same(found[index], (situation.masks or ())[index])
    spoilt = [torch.full_like(v, math.inf) for v in situation.values]
    found = decided(learner, replace(situation, scores=spoilt))
    assert not learner.scores or same(found, situation.masks)


@pytest.mark.parametrize(
    "learner", [a for a in MOVING if a.part == "weights"], ids=lambda a: a.name
)
@given(updates(ties=False), st.sampled_from([0.4, 0.7, 0.95]))
def test_a_smaller_budget_prunes_first_and_marks_what_starts_anew(
    learner: Learner, situation: Situation, share: float
) -> None:
    tight = replace(
        situation,
        budget=situation.budget * share,
        limits=[(0, high) for _, high in situation.limits],
    )
    before = situation.masks
    pruned = affordable(tight, before)
    answer = learner.answer(tight)
    assert answer.fresh is not None
    assert counts(list(answer.masks)) == counts(pruned)
    rows = zip(before, pruned, answer.masks, answer.fresh, strict=True)
    for old, left, new, fresh in rows:
        assert same(fresh, old & ~left & new)


@every
@given(st.one_of(beginnings(), updates()))
def test_what_comes_with_the_masks(learner: Learner, situation: Situation) -> None:
    """Gradients reach what is kept; gates are soft masks of nothing else."""
    wider = situation.cost([v.numel() for v in situation.values]), situation.limits
    for given_ in (situation, replace(situation, wider=wider)):
        answer = learner.answer(given_)
        for mask, reach in zip(answer.masks, answer.reach or answer.masks, strict=True):
            assert (reach | ~mask).all()
        if answer.gates is not None:
            for mask, gate in zip(answer.masks, answer.gates, strict=True):
                assert not gate[~mask].any()
                assert (gate >= 0).all()
                assert (gate <= 1).all()
        if answer.reach is not None:
            assert learner.dense_gradients
            reached = affordable(given_, None, *wider)
            rows = zip(reached, answer.masks, strict=True)
            assert same(answer.reach, [a | b for a, b in rows])


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(1, 3) > 0, [True] * 3])
def test_answers_are_flat_bools(wrong: Any) -> None:
    one = Situation(
        names=["w"], values=[torch.ones(3)], prices=[1.0], worths=[1.0],
        limits=[(0, 3)], budget=3.0,
    )  # fmt: skip
    with pytest.raises(MaskError, match="wrong answers masks that are not one flat"):
        Learner(name="wrong", decide=lambda _: Decision([wrong])).answer(one)
