"""A policy's budgets as absolute costs of a model's weights."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace

from sparsefx.errors import BudgetError
from sparsefx.lowering.latency_costs import Timed
from sparsefx.masking.site import Site
from sparsefx.policies.policy import Policy
from sparsefx.policies.policy_function import PolicyFunction, asked, may_empty
from sparsefx.policies.site_costs import itemsize, overhead
from sparsefx.settings.budget import parse_budget
from sparsefx.settings.cost_expression import is_expression, mentioned
from sparsefx.training.plan import Plan, Target


def targets_of(
    policy: Policy,
    function: PolicyFunction,
    sites: tuple[Site, ...],
    dense: tuple[Site, ...],
    priced: bool,
    fixed: Mapping[str, float],
    times: Timed | None = None,
) -> tuple[Target, ...]:
    """The policy's budgets as absolute costs.

    A fraction is one of the dense model, stored dense.

    Args:
        policy: whose ``budget``, ``storage`` and ``budget_of`` count.
        function: the policy's, as prepared for the model.
        sites: the masked weights.
        dense: maskable weights that are not masked.
        priced: whether MACs are known.
        fixed: by cost, what no mask can save; part of budgets of the whole model.
        times: what was measured, where a budget is of ``latency_ms``.
    """
    targets: dict[str, Target] = {}
    given = asked(function, (*sites, *dense), {"densities": policy.densities})
    for budget in parse_budget(policy.budget, policy.cost, tuple(policy.costs)):
        cost = budget.cost
        if "macs" in _parts(cost) and not priced:
            if budget.absolute or cost != "macs":
                raise BudgetError(
                    f"budget {policy.budget!r} is a number of MACs, which are unknown "
                    "without example inputs; give example_inputs=(x,), or a fraction"
                )
            _say(
                "no example inputs, and the model offers none: MACs are unknown, so "
                "the budget counts parameters instead; give example_inputs=(x,)"
            )
            cost = "params"
        stored = overhead(sites, policy, cost)
        base = times.fixed if cost == "latency_ms" and times else (
            stored + _base(policy, cost, fixed, dense))  # fmt: skip
        total = sum(site.cost(cost) * site.numel for site in (*sites, *dense))
        plain = base - stored + total
        if cost == "bytes":
            whole = sum(itemsize(site) * site.numel for site in (*sites, *dense))
            plain = base - stored + whole
        if cost == "latency_ms" and times:
            plain = times.latencies.total
        limit = budget.limit(plain)
        if limit > total + base:
            if limit > plain:
                _say(
                    f"budget {policy.budget!r} is above what the dense model costs "
                    f"({plain:.6g} {cost}), so nothing is dropped; lower it"
                )
            limit = total + base
        if given is not None:
            pairs = zip((*sites, *dense), given, strict=True)
            own = sum((s.cost(cost) * s.numel * d for s, d in pairs), start=base)
            limit = min(limit, own) if own > base else limit
        if limit <= stored:
            raise BudgetError(
                f"budget {limit:.6g} {cost} is not above the {stored:.6g} that storage "
                f"{policy.storage!r} takes whatever is kept; raise it, or choose "
                "another storage"
            )
        _say_if_crowded(policy, dense, cost, limit)
        if cost not in targets or limit < targets[cost].limit:
            targets[cost] = Target(cost, limit, base)
    return tuple(targets.values())


def _base(
    policy: Policy, cost: str, fixed: Mapping[str, float], dense: tuple[Site, ...]
) -> float:
    """What is in the budget besides the weights, or not in it though maskable."""
    if policy.budget_of == "maskable":
        return 0.0
    if policy.budget_of == "selected":
        return -sum(site.cost(cost) * site.numel for site in dense)
    if cost not in fixed:
        raise BudgetError(
            f"budget_of 'model' needs the fixed part of {cost!r}, which is known for "
            f"{', '.join(fixed)} only; choose one of these costs, or budget_of: "
            "maskable"
        )
    return fixed[cost]


def _say_if_crowded(
    policy: Policy, dense: tuple[Site, ...], cost: str, limit: float
) -> None:
    """Says that weights nobody masks take most of a budget."""
    prices = {site.name: site.cost(cost) * site.numel for site in dense}
    taken = sum(prices.values())
    chosen = policy.budget_of != "selected" and policy.rewrite == "none"
    if chosen and limit / 2 < taken < limit:
        first = ", ".join(sorted(prices, key=lambda name: -prices[name])[:3])
        _say(
            f"weights that stay dense ({first}{', ...' * (len(prices) > 3)}) take "
            f"{taken / limit:.0%} of the budget of {limit:.6g} {cost}; the selected "
            "ones share the rest: set budget_of: selected to have the budget be of "
            "these alone, or raise it"
        )


def _parts(cost: str) -> Collection[str]:
    """The costs that a cost is made of."""
    if not is_expression(cost):
        return (cost,)
    return mentioned(cost)


def floored(plan: Plan) -> tuple[Site, ...]:
    """The sites with room for one weight an output unit, if half the budget pays it."""
    if not plan.policy.keep_units or not may_empty(plan.function):
        return plan.sites
    raised = []
    for site in plan.sites:
        groups = site.groups
        least = site.shape[0] if groups is None else groups.least
        floor = min(site.density(least), site.max_density)
        raised.append(replace(site, min_density=max(site.min_density, floor)))
    for target in plan.targets:
        cost = target.cost
        price = sum(s.cost(cost) * s.numel * s.min_density for s in raised)
        if price > (target.limit - plan.reserved(target)) / 2:
            return plan.sites
    return tuple(raised)


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)
