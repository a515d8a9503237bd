"""Masks that are drawn once, at random, with the counts of the allocation.

The baseline "static sparse training"; with the allocation `erk` the one of Liu et al.,
"The Unreasonable Effectiveness of Random Pruning", 2022 (arXiv 2202.02643).
"""

from __future__ import annotations

from torch import Tensor

from sparsefx.learners.choose_entries import randomly
from sparsefx.learners.learner import Decision, Learner, Situation


def decide(situation: Situation) -> Decision:
    """Random masks at the start; afterwards those.

    Example:
        >>> import torch
        >>> s = Situation(names=["w"], values=[torch.ones(4)], prices=[1.0],
        ...     worths=[1.0], limits=[(2, 2)], budget=2.0, starts=[2])
        >>> int(decide(s).masks[0].sum())
        2
    """
    return Decision(situation.masks or drawn(situation))


def drawn(situation: Situation) -> list[Tensor]:
    """Random masks with the numbers of entries of the start."""
    sizes = [value.numel() for value in situation.values]
    masks = randomly(sizes, situation.starts, situation.seed)
    pairs = zip(masks, situation.values, strict=True)
    return [mask.to(value.device) for mask, value in pairs]


FIXED = Learner(name="fixed", decide=decide, drawn=True, steady=True)
