"""Dual averaging: hard masks of the largest weights, gradients also for the others.

Forward ``h w`` with ``h`` the largest weights that the budget pays; dropped weights
keep their values and receive the gradient of the masked loss, so that they may come
back: all of them, or those that a wider budget would keep (the backward set of
Top-KAST). Source: Jayakumar et al., "Top-KAST: Top-K Always Sparse Training", 2020
(arXiv 2106.03517), without its exploration regulariser.
"""

from __future__ import annotations

from sparsefx.learners.choose_entries import affordable
from sparsefx.learners.learner import Decision, Learner, Situation


def decide(situation: Situation) -> Decision:
    """The largest weights, and the largest of a wider budget for gradients.

    Example:
        >>> import torch
        >>> s = Situation(names=["w"], values=[torch.tensor([3.0, 9.0, 1.0, 2.0])],
        ...     prices=[1.0], worths=[1.0], limits=[(1, 4)], budget=1.0,
        ...     wider=(2.0, [(1, 4)]))
        >>> [m.tolist() for m in (*decide(s).masks, *decide(s).reach)]
        [[False, True, False, False], [True, True, False, False]]
    """
    masks = affordable(situation)
    if situation.wider is None:
        return Decision(masks)
    found = affordable(situation, None, *situation.wider)
    return Decision(masks, [a | b for a, b in zip(found, masks, strict=True)])


DUAL_AVERAGING = Learner(
    name="dual_averaging",
    decide=decide,
    zeroes=False,
    dense_gradients=True,
    reads=frozenset({"backward_density"}),
)
