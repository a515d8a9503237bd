"""The allocation solver alone: sites and a budget in, densities out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sparsefx.errors import BudgetError, MaskError, PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies import function_of
from sparsefx.policies.allocation import Allocation, planned, prices
from sparsefx.policies.load_policy import PolicySource, load_policy
from sparsefx.policies.policy import Policy
from sparsefx.policies.policy_function import PolicyFunction, accepted, check_call
from sparsefx.policies.site_costs import with_costs
from sparsefx.policies.unit_bounds import density_bounds
from sparsefx.settings.budget import parse_budget


def allocate(
    sites: Sequence[Site],
    budget: float | str | Mapping[str, float | str],
    *,
    policy: PolicySource = "cost_budget",
    cost: str | None = None,
    normalize: str | None = None,
) -> Allocation:
    """Distributes a budget over sites, without touching any model.

    Args:
        sites: the maskable weights, for example ``sparsefx.sites(module)``.
        budget: fraction of the sites' dense cost, percent, or absolute, as in
            `sparsefx.transform`; a mapping names the cost.
        policy: name of a preset, path of a YAML file, mapping, `Policy`, or a function
            ``(sites, budget) -> Allocation`` that is given the absolute cost.
        cost: the cost a bare budget speaks of; None takes the policy's.
        normalize: how weights of different layers compare; None takes the policy's.

    Raises:
        BudgetError: the budget is malformed, or cannot be met within the bounds.
        PolicyError: the policy is not known, or answers nonsense.
        MaskError: ``sites`` holds something else.

    Example:
        >>> import sympy
        >>> one = {"macs": sympy.Integer(1)}
        >>> pair = [Site(name, name, "linear", (4, 5), one) for name in "ab"]
        >>> allocate(pair, 0.25, policy="uniform").densities
        {'a': 0.25, 'b': 0.25}
    """
    if not isinstance(sites, Sequence) or not all(
        isinstance(site, Site) for site in sites
    ):
        raise MaskError(
            f"sites is a {type(sites).__name__}; give sparsefx.sites(model), or a list "
            "of sparsefx.Site"
        )
    given = {"cost": cost, "normalize": normalize}
    overrides = {name: value for name, value in given.items() if value is not None}
    chosen = load_policy(policy, **overrides)
    budgets = {}
    masked = [True] * len(sites)
    if budget is not chosen.budget:
        chosen = replace(chosen, budget=budget)
    sites = with_costs(sites, chosen, masked)
    for one in parse_budget(budget, chosen.cost, tuple(chosen.costs)):
        row = prices(sites, one.cost)
        dense = math.fsum(p * s.numel for p, s in zip(row, sites, strict=True))
        budgets[one.cost] = one.limit(dense)
    return run(chosen, sites, budgets)


def run(
    policy: Policy,
    sites: Sequence[Site],
    budgets: Mapping[str, float],
    function: PolicyFunction | None = None,
) -> Allocation:
    """Asks a policy's allocation function, built in or the user's own.

    Args:
        policy: whose ``allocation`` and ``normalize`` count.
        sites: the maskable weights.
        budgets: cost allowed for these sites, by name; not empty.
        function: the policy's function as prepared for a model, if it was.

    Raises:
        BudgetError: a budget cannot be met within the bounds, or the answer of the
            user's function costs more.
        PolicyError: the user's function answers nonsense.

    Example:
        >>> import sympy
        >>> one = {"macs": sympy.Integer(1)}
        >>> pair = [Site(name, name, "linear", (4, 5), one) for name in "ab"]
        >>> def mine(sites, budget):
        ...     return {"a": 0.5, "b": 0.0}
        >>> run(load_policy(mine), pair, {"macs": 20}).cost
        10.0
    """
    asks = function_of(policy.allocation) if function is None else function
    check_call(asks, policy.name)
    cost, limit = next(iter(budgets.items()))
    known = {"cost": cost, "normalize": policy.normalize, "budgets": dict(budgets)}
    known = {**known, "densities": policy.densities}
    answer = asks(sites, limit, **accepted(asks, known))
    if isinstance(answer, Mapping):
        answer = planned(answer, sites, limit, cost, budgets)
    _check_answer(policy, answer, sites, budgets)
    return answer


def _check_answer(
    policy: Policy, answer: object, sites: Sequence[Site], budgets: Mapping[str, float]
) -> None:
    if not isinstance(answer, Allocation):
        raise PolicyError(
            f"policy {policy.name!r} answers {type(answer).__name__}; return an "
            "Allocation, or a mapping from site.name to density"
        )
    for site in sites:
        for given in (answer.lower, answer.upper, answer.densities):
            if not 0 <= given.get(site.name, -1.0) <= 1:
                raise PolicyError(
                    f"policy {policy.name!r} gives {site.name} the density "
                    f"{given.get(site.name)}; give a kept fraction in [0, 1]"
                )
        low, high = answer.lower[site.name], answer.upper[site.name]
        least, most = density_bounds(site)  # whole units may fall short of a density
        least, most = min(least, site.min_density), max(most, site.max_density)
        if low < least - 1e-9 or high > most + 1e-9:
            raise PolicyError(
                f"policy {policy.name!r} gives {site.name} densities from {low:g} to "
                f"{high:g}; its bounds allow {site.min_density:g} to "
                f"{site.max_density:g}"
            )
    kept = [answer.densities[site.name] * site.numel for site in sites]
    for cost, limit in budgets.items():
        row = prices(sites, cost)
        spent = math.fsum(p * n for p, n in zip(row, kept, strict=True))
        if spent > limit * (1 + 1e-9):
            raise BudgetError(
                f"policy {policy.name!r} spends {spent:.6g} {cost}, but the budget "
                f"allows {limit:.6g}; lower its densities"
            )
