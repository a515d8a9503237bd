"""Situations of every kind that a learner may be asked in, drawn."""

from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from sparsefx.learners import LEARNERS, Learner, Situation

ASKED = tuple(learner for learner in LEARNERS.values() if learner.decide is not None)
# What decides anew from values alone, unless it is held to the masks of before.
BY_VALUE = tuple(a for a in ASKED if not a.drawn)
MOVING = tuple(a for a in ASKED if "drop_fraction" in a.reads)


def counts(masks: list[Tensor]) -> list[int]:
    return [int(mask.count_nonzero()) for mask in masks]


def decided(learner: Learner, situation: Situation) -> list[Tensor]:
    """The masks that a learner answers."""
    return list(learner.answer(situation).masks)


@st.composite
def beginnings(draw: st.DrawFn, ties: bool = True) -> Situation:
    """Before the first masks: a few sites, and a budget that pays what is drawn."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def numbers(size: int) -> Tensor:
        if ties:
            return torch.randint(-5, 6, (size,), generator=generator) / 4.0
        return torch.randn(size, generator=generator, dtype=torch.float64)

    prices = [draw(st.sampled_from([0.5, 1.0, 3.0, 7.0])) for _ in sizes]
    lows = [draw(st.integers(1, n)) for n in sizes]
    starts = [draw(st.integers(low, n)) for low, n in zip(lows, sizes, strict=True)]
    highs = [draw(st.integers(s, n)) for s, n in zip(starts, sizes, strict=True)]
    spent = sum(p * n for p, n in zip(prices, starts, strict=True))
    return Situation(
        names=[f"w{i}" for i in range(len(sizes))],
        values=[numbers(n) for n in sizes],
        prices=prices,
        worths=[draw(st.sampled_from([1.0, 2.0])) * p for p in prices],
        limits=list(zip(lows, highs, strict=True)),
        budget=spent * draw(st.sampled_from([1.0, 1.1, 1.7])),
        starts=starts,
        beta=draw(st.sampled_from([0.5, 5.0, 50.0])),
        seed=draw(st.integers(0, 100)),
    )


@st.composite
def updates(draw: st.DrawFn, ties: bool = True) -> Situation:
    """Later: masks that cost what the budget allowed, scores, a share that moves."""
    first = draw(beginnings(ties))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    masks = []
    for value, count in zip(first.values, first.starts, strict=True):
        mask = torch.zeros(value.numel(), dtype=torch.bool)
        mask[torch.randperm(value.numel(), generator=generator)[:count]] = True
        masks.append(mask)
    return replace(
        first,
        masks=masks,
        budget=first.cost(first.starts),
        scores=[torch.rand(v.numel(), generator=generator) for v in first.values],
        drop_fraction=draw(st.sampled_from([0.05, 0.3, 0.5, 1.0])),
    )
