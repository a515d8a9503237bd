"""What a policy says of masks that are stored."""

from __future__ import annotations

from sparsefx.learners import learner_of
from sparsefx.policies.policy import Policy


def keeps_masks(policy: Policy) -> bool:
    """Whether the policy's learner keeps its masks."""
    return learner_of(policy.learner).stored


def wide(policy: Policy) -> bool:
    """Whether what receives gradients is a set of its own."""
    dense = learner_of(policy.learner).dense_gradients
    return dense and policy.backward_density < 1


def moves_state(policy: Policy) -> bool:
    """Whether an optimizer's state is to be zeroed where masks move."""
    reads = "optimizer_state" in learner_of(policy.learner).reads
    return reads and policy.optimizer_state == "zero" and zeroes(policy)


def zeroes(policy: Policy) -> bool:
    """Whether dropped weights become zero."""
    learner = learner_of(policy.learner)
    asked = policy.dropped == "zero" or "dropped" not in learner.reads
    return learner.zeroes and asked
