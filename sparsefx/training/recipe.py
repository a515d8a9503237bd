"""How a model was made sparse, as JSON; and what differs between two such recipes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsefx.errors import MaskError
from sparsefx.policies.load_policy import load_policy
from sparsefx.policies.policy import Policy, fields_of
from sparsefx.training.example_shapes import spelled
from sparsefx.training.plan import Plan

Recipe = Mapping[str, Any]  # what JSON holds
_OBJECT = "<object> "  # before the name of a Python object, which JSON cannot hold
_SAME = 1e-6  # shares of budgets that are as near are equal


@dataclass(frozen=True, slots=True)
class Differences:
    """Between the recipe of a checkpoint and that of a model.

    Attributes:
        refused: the checkpoint's masks are not masks of this model.
        told: what else differs; training goes on as the model's recipe says.
    """

    refused: Sequence[str]
    told: Sequence[str]


def recipe_of(policy: Policy, inputs: Any, plan: Plan) -> Recipe:
    """What `sparsefx.transform` was asked for, and what it came to.

    Args:
        policy: as it was asked for.
        inputs: the example inputs; only what they are like is told.
        plan: what it came to for the model.
    """
    values = fields_of(policy)
    for name in ("allocation", "learner"):
        value = values[name]
        if not isinstance(value, str):
            known = getattr(value, "__name__", getattr(value, "name", ""))
            values[name] = _OBJECT + str(known or type(value).__name__)
    shares = {t.cost: t.limit / (plan.total(t) or 1.0) for t in plan.targets}
    found = {
        "policy": values,
        "inputs": spelled(inputs),
        "budgets": shares,
        "sites": {site.name: str(site.granularity) for site in plan.sites},
    }
    plain: Recipe = json.loads(json.dumps(found))
    return plain


def policy_of(recipe: Recipe) -> Policy:
    """The policy that was asked for.

    Raises:
        MaskError: it has a function, or a learner, of the user's own.
    """
    values = dict(recipe["policy"])
    for name in ("allocation", "learner"):
        if values[name].startswith(_OBJECT):
            raise MaskError(
                f"the policy's {name} was the Python object "
                f"{values[name].removeprefix(_OBJECT)}, which a file cannot hold; call "
                "sparsefx.transform with it, then load into what it returns"
            )
    return load_policy(values)


def differences(theirs: Recipe, ours: Recipe) -> Differences:
    """What differs between a checkpoint's recipe and a model's."""
    there, here = theirs["policy"], ours["policy"]
    odd = {k for k in here if there.get(k) != here[k]} - {"name"}
    refused: list[str] = []
    told: list[str] = []
    refused += [
        _pair(f"the {name}", there.get(name), here[name])
        for name in ("learner", "masks")
        if name in odd
    ]
    for name in sorted(theirs["sites"].keys() & ours["sites"].keys()):
        cuts = theirs["sites"][name], ours["sites"][name]
        if cuts[0] != cuts[1]:
            refused.append(_pair(f"the granularity of {name!r}", *cuts))
    names = sorted(theirs["sites"].keys() ^ ours["sites"].keys())
    if names:
        refused.append(
            f"the checkpoint masks {len(theirs['sites'])} weights, this model "
            f"{len(ours['sites'])}; they differ in {', '.join(names[:5])}"
        )
    costs = list(theirs["budgets"]), list(ours["budgets"])
    if costs[0] != costs[1] and max(map(len, costs)) > 1:
        refused.append(_pair("budgets", *map(", ".join, costs)))
    told += [_pair(name, there.get(name), here[name]) for name in here if name in odd]
    if not odd and costs[0] == costs[1]:
        shares = theirs["budgets"].items()
        told += [
            _pair(f"the budget's share of {cost}", f"{share:.6g}", f"{mine:.6g}")
            for cost, share in shares
            if not math.isclose(share, mine := ours["budgets"][cost], rel_tol=_SAME)
        ]
    return Differences(refused, told)


def _pair(what: str, there: Any, here: Any) -> str:
    return f"{what}: {there} in the checkpoint, {here} here"
