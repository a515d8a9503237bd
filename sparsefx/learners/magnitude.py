"""Magnitude pruning: at each update the largest weights that the budget pays.

With the budget at its target from one step on it is one-shot pruning, with a ramp it
is iterative; with a cubic ramp it is gradual magnitude pruning (GMP). Source: Zhu,
Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878).
"""

from __future__ import annotations

from sparsefx.learners.choose_entries import affordable
from sparsefx.learners.learner import Decision, Learner, Situation


def decide(situation: Situation) -> Decision:
    """The largest weights; only those still kept, unless dropped ones hold a value.

    Example:
        >>> import torch
        >>> s = Situation(names=["w"], values=[torch.tensor([3.0, 9.0, 1.0, 2.0])],
        ...     prices=[1.0], worths=[1.0], limits=[(1, 4)], budget=2.0,
        ...     masks=[torch.tensor([True, False, True, True])])
        >>> decide(s).masks[0].tolist()
        [True, False, False, True]
    """
    return Decision(affordable(situation, None if situation.hold else situation.masks))


MAGNITUDE = Learner(
    name="magnitude", decide=decide, reads=frozenset({"dropped", "optimizer_state"})
)
