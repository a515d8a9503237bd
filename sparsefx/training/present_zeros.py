"""Masks that start from the zeros that a model has, and keep them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sparsefx.errors import MaskError, PolicyError
from sparsefx.learners import learner_of
from sparsefx.learners.fixed import FIXED
from sparsefx.training.life import Life
from sparsefx.training.stored_weights import StoredWeights


def check_zeros(masks: str, overrides: Mapping[str, object]) -> bool:
    """Whether zeros are to be kept.

    Raises:
        PolicyError: the word is not known, or a budget is given besides.
    """
    if masks not in ("learner", "nonzero"):
        raise PolicyError(f"masks is {masks!r}; allowed: learner, nonzero")
    if masks == "nonzero" and "budget" in overrides:
        raise PolicyError(
            "masks='nonzero' keeps what is not zero, and that is the budget; leave "
            "budget out, or masks"
        )
    return masks == "nonzero"


def keep_zeros(life: Life) -> None:
    """Makes what is not zero the masks of a model, and its cost the budget.

    Raises:
        MaskError: the learner moves masks, so that zeros would not stay.
    """
    part, plan = life.parts[-1], life.plan
    learner = learner_of(plan.policy.learner)
    if not isinstance(part, StoredWeights) or learner is not FIXED:
        raise MaskError(
            f"the learner {learner.name} moves masks, so that zeros would come back; "
            "use masks='nonzero' with the policy fixed"
        )
    kept = part.state.kept
    assert kept is not None
    found = [weight.detach() != 0 for weight in part.state.weights()]
    kept.take({f"mask_{index}": mask for index, mask in enumerate(found)})
    rows = zip(plan.targets, plan.spent(part.entries()), strict=True)
    targets = tuple(replace(target, limit=cost) for target, cost in rows)
    life.plan = part.plan = replace(plan, targets=targets)
