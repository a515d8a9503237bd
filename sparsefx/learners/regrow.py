r"""SET, RigL and GraNet: masks that drop their least weights and grow others.

An update first prunes to the budget, if that has shrunk: the largest kept weights by
``worth |w| / price`` over all layers (GraNet). Then in each layer, with n kept,

    k = ceil(drop_fraction * n), at most the number of entries to choose from
    drop the k kept entries of least |w|
    grow k entries that were not kept: at random (SET), or of largest |gradient|, but
        for a share of them, `growth_random`, that is drawn too

so that counts, and with them the cost of each layer, stay exactly. Entries dropped in
the same update are not grown again, so that the share is what moves; with
`regrow_dropped` they may be, and keep their values, as in the code of GraNet and Sparse
IFT. Entries just pruned may be grown too, and restart at zero.

With `growth_momentum` gradients are those of all steps since an entry was dropped, each
counting that much less than the one after it (sparse momentum).

Sources: Mocanu et al., "Scalable training of artificial neural networks with adaptive
sparse connectivity", 2018 (arXiv 1707.04780); Evci et al., "Rigging the Lottery", 2020
(arXiv 1911.11134); Liu et al., "Sparse Training via Boosting Pruning Plasticity with
Neuroregeneration", 2021 (arXiv 2106.10404); Dettmers and Zettlemoyer, "Sparse Networks
from Scratch", 2019 (arXiv 1907.04840), without its moving of counts between layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sparsefx.learners.choose_entries import affordable, inside, largest
from sparsefx.learners.fixed import drawn
from sparsefx.learners.learner import Decision, Learner, Situation
from sparsefx.solver.projection import BUDGET_SLACK


def by_gradient(situation: Situation) -> Decision:
    """Random masks at the start; then prunes what is over the budget, and regrows.

    Example:
        >>> import torch
        >>> s = Situation(names=["w"], values=[torch.tensor([3.0, 0.0, 0.0, 2.0])],
        ...     prices=[1.0], worths=[1.0], limits=[(2, 2)], budget=2.0,
        ...     masks=[torch.tensor([True, False, False, True])],
        ...     scores=[torch.tensor([0.0, 1.0, 5.0, 9.0])],
        ...     drop_fraction=0.5)
        >>> by_gradient(s).masks[0].tolist()
        [True, False, True, False]
    """
    return _moved(situation, lambda: situation.scores)


def by_chance(situation: Situation) -> Decision:
    """The same, but what grows is drawn.

    Example:
        >>> import torch
        >>> s = Situation(names=["w"], values=[torch.tensor([3.0, 0.0, 0.0, 2.0])],
        ...     prices=[1.0], worths=[1.0], limits=[(2, 2)], budget=2.0,
        ...     masks=[torch.tensor([True, False, False, True])], drop_fraction=0.5)
        >>> int(by_chance(s).masks[0].sum())
        2
    """
    return _moved(situation, lambda: _random_scores(situation))


def _moved(
    situation: Situation, scores: Callable[[], Sequence[Tensor | None]]
) -> Decision:
    if situation.masks is None:
        return Decision(drawn(situation))
    masks = before = situation.masks
    counts = [int(mask.count_nonzero()) for mask in masks]
    if situation.cost(counts) > situation.budget * (1.0 + BUDGET_SLACK):
        masks = affordable(situation, masks)
    if situation.drop_fraction > 0:
        left, masks = masks, regrown(situation, masks, scores())
        rows = zip(before, left, masks, strict=True)
        return Decision(masks, fresh=[old & ~kept & new for old, kept, new in rows])
    return Decision(masks)


def _random_scores(situation: Situation) -> list[Tensor]:
    generator = torch.Generator().manual_seed(situation.seed)
    return [
        torch.rand(value.numel(), generator=generator).to(value.device)
        for value in situation.values
    ]


def regrown(
    situation: Situation, masks: Sequence[Tensor], scores: Sequence[Tensor | None]
) -> list[Tensor]:
    """Drops and grows in each layer; counts stay.

    Layers without a score keep their masks; so do all where nothing is to choose from.
    """
    draws: Sequence[Tensor | None] = [None] * len(masks)
    if situation.growth_random > 0:
        draws = _random_scores(situation)
    rows = zip(situation.names, situation.values, masks, scores, draws, strict=True)
    return [
        mask if score is None else exchanged(value, mask, score, situation, name, draw)
        for name, value, mask, score, draw in rows
    ]


def exchanged(
    value: Tensor,
    mask: Tensor,
    score: Tensor,
    situation: Situation,
    name: str,
    draw: Tensor | None = None,
) -> Tensor:
    """One layer's mask after dropping and growing; `draw` has random numbers."""
    finite = score.isfinite()  # a gradient that overflowed says nothing
    free = ~mask & finite
    kept = int(mask.count_nonzero())
    # 0.1 * 30 is 3.0000000000000004 in floating point; the user means 3
    number = math.ceil(situation.drop_fraction * kept - 1e-9)
    if not situation.regrow_dropped:
        number = min(number, int(free.count_nonzero()))
    if number == 0:
        return mask
    held = inside(mask, largest(value[mask], kept - number, name))
    if situation.regrow_dropped:
        free, score = ~held, score.where(finite, 0.0)
    lucky = math.floor(situation.growth_random * number + 1e-9)
    grown = inside(free, largest(score[free], number - lucky, name))
    if draw is not None and lucky:
        free &= ~grown
        grown |= inside(free, largest(draw[free], lucky, name))
    return held | grown


_READS = frozenset(
    {
        "drop_end",
        "drop_fraction",
        "drop_fraction_final",
        "drop_ramp",
        "optimizer_state",
        "regrow_dropped",
    }
)
_MIXES = _READS | {"growth_momentum", "growth_random"}
SET = Learner(name="set", decide=by_chance, drawn=True, steady=True, reads=_READS)
RIGL = Learner(
    name="rigl", decide=by_gradient, drawn=True, steady=True, scores=True, reads=_MIXES
)
GRANET = Learner(
    name="granet", decide=by_gradient, drawn=True, scores=True, reads=_MIXES
)
