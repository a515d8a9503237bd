"""Settings of a policy that have no effect, and what to do about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsefx.learners import LEARNERS, learner_of
from sparsefx.settings import checks as check

REWRITES = (
    "none",
    "sparse_wide",
    "sparse_parallel",
    "sparse_factorized",
    "sparse_doped",
)


def unused(policy: Mapping[str, Any], default: Mapping[str, Any]) -> list[str]:
    """One message for each setting that has no effect.

    Args:
        policy: the settings by field name.
        default: what they are if nobody sets them.

    Example:
        >>> from dataclasses import fields
        >>> from sparsefx.policies.policy import Policy
        >>> default = {f.name: f.default for f in fields(Policy)}
        >>> values = {f.name: getattr(Policy(), f.name) for f in fields(Policy)}
        >>> unused({**values, "density": 0.3}, default)[0][:40]
        'density and rewrite_options have no effe'
    """
    found = [
        f"layers[{pattern!r}] is empty; set {', '.join(check.LAYER_KEYS)} or remove it"
        for pattern, options in policy["layers"].items()
        if not options
    ]
    if policy["budget_ramp"] == "constant" and policy["initial_budget"] != 1:
        found.append(
            f"initial_budget {policy['initial_budget']:g} has no effect with "
            "budget_ramp 'constant'; choose linear, cosine or cubic"
        )
    if policy["beta_ramp"] == "constant" and policy["beta_initial"] != 1:
        found.append(
            f"beta_initial {policy['beta_initial']:g} has no effect with beta_ramp "
            "'constant'; choose linear, cosine or cubic"
        )
    if policy["rewrite"] == "none" and (
        policy["density"] != 0.5 or policy["rewrite_options"]
    ):
        found.append(
            "density and rewrite_options have no effect without a rewrite; set "
            f"rewrite to one of {', '.join(REWRITES[1:])}, or give a budget"
        )
    learner = learner_of(policy["learner"])
    for name in sorted({name for one in LEARNERS.values() for name in one.reads}):
        if policy[name] != default[name] and name not in learner.reads:
            readers = [one.name for one in LEARNERS.values() if name in one.reads]
            found.append(
                f"{name} {policy[name]} has no effect with the learner {learner.name}; "
                f"it is for {', '.join(readers)}"
            )
    return found
