"""What regrowth may be told: to take back, to draw, to go on."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsefx.errors import PolicyError
from sparsefx.learners import regrow
from sparsefx.policies.load_policy import load_policy
from tests.learners.test_regrow import situation, updates


@given(updates(), st.sampled_from([regrow.by_gradient, regrow.by_chance]))
def test_what_is_dropped_may_grow_again(s: Any, decide: Any) -> None:
    found = decide(replace(s, regrow_dropped=True))
    for i, (old, new) in enumerate(zip(s.masks, found.masks, strict=True)):
        assert int(new.sum()) == int(old.sum())
        k = math.ceil(s.drop_fraction * int(old.sum()) - 1e-9)
        held = s.masks[i] & largest_of(s.values[i], old, int(old.sum()) - k)
        assert not (held & ~new).any()
        assert not found.fresh[i].any()  # nothing was pruned: all keep their values
        if decide is regrow.by_gradient:
            assert torch.equal(new, held | largest_of(s.scores[i], ~held, k))


@given(updates(), st.floats(0.0, 1.0))
def test_a_share_of_what_grows_is_drawn(s: Any, share: float) -> None:
    mixed = replace(s, growth_random=share)
    found, other = regrow.by_gradient(mixed), regrow.by_gradient(replace(mixed, seed=4))
    ranked = regrow.by_gradient(s).masks
    for i, (old, new) in enumerate(zip(s.masks, found.masks, strict=True)):
        assert int(new.sum()) == int(old.sum())
        assert torch.equal(new & old, ranked[i] & old)  # the same are dropped
        k = int((ranked[i] & ~old).sum())
        sure = largest_of(s.scores[i], ~old, k - math.floor(share * k + 1e-9))
        assert not (sure & ~new).any()
        if share == 0:
            assert torch.equal(new, ranked[i])
        assert not (sure & ~other.masks[i]).any()


def test_what_is_drawn_hangs_on_the_seed() -> None:
    w, mask = torch.ones(200), torch.arange(200) < 100
    s = situation([w * mask], [mask], [torch.zeros(200)], budget=200.0)
    s = replace(s, drop_fraction=0.4, growth_random=1.0)
    one, other = (regrow.by_gradient(replace(s, seed=n)).masks[0] for n in (1, 2))
    assert int((one & ~mask).sum()) == 40
    assert not torch.equal(one, other)
    assert not torch.equal(
        one, regrow.by_gradient(replace(s, growth_random=0.0)).masks[0]
    )


def largest_of(values, among, count):
    rows = sorted(
        among.nonzero().flatten().tolist(), key=lambda j: (-values[j].abs(), j)
    )
    mask = torch.zeros_like(among)
    mask[rows[:count]] = True
    return mask


def test_a_gradient_that_overflowed_does_not_bring_a_weight_back() -> None:
    w, mask = (
        torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0]),
        torch.tensor([1, 1, 1, 0, 0]).bool(),
    )
    scores = [torch.tensor([0.0, 0.0, math.inf, 0.5, 0.1])]
    s = situation(
        [w], [mask], scores, budget=3.0, drop_fraction=0.3, regrow_dropped=True
    )
    assert regrow.by_gradient(s).masks[0].int().tolist() == [1, 1, 0, 1, 0]


def test_the_share_may_move_on_beyond_the_freeze() -> None:
    """The period of the authors' code is the whole run: .2525 at half of it."""
    options = {"total_steps": 4000, "update_every": 100, "drop_fraction": 0.5}
    options |= {"drop_fraction_final": 0.005}
    schedule = load_policy("rigl", drop_end=1.0, **options).schedule()
    found = [schedule.at(step).drop_fraction for step in (2000, 3000)]
    assert found == pytest.approx([0.2525, 0.07749], abs=1e-5)
    assert schedule.at(3100).drop_fraction == 0  # frozen
    assert load_policy("rigl", drop_end=2000, **options).schedule().at(
        2100
    ).drop_fraction == pytest.approx(0.005)
    with pytest.raises(PolicyError, match=r"drop_end 5000 lies beyond total_steps"):
        load_policy("rigl", drop_end=5000, **options)
