"""What a policy says costs are: storage, costs of the user's own, expressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sparsefx.masking.site import Site
from sparsefx.policies.policy import Policy
from sparsefx.policies.storage import stored
from sparsefx.settings.budget import COSTS, parse_budget
from sparsefx.settings.cost_expression import SIZES, is_expression, parse_expression
from sparsefx.settings.patterns import most_specific

if TYPE_CHECKING:
    import sympy


def with_costs(
    sites: Sequence[Site], policy: Policy, masked: Sequence[bool]
) -> tuple[Site, ...]:
    """The sites with every cost that the policy's budgets speak of.

    Args:
        sites: the maskable weights, with MACs, parameters and bytes.
        policy: whose ``storage``, ``costs`` and ``budget`` count.
        masked: whether each site is masked; others are stored dense.

    Raises:
        PolicyError: a pattern matches nothing, an expression is not linear, or a
            storage does not fit a site.

    Example:
        >>> import sympy
        >>> one = {name: sympy.Integer(1) for name in ("macs", "params", "bytes")}
        >>> site = Site("fc.weight", "fc", "linear", (2, 3), one)
        >>> policy = Policy(budget={"macs + 2*energy": 0.5},
        ...                 costs={"energy": {"*": 1.5}})
        >>> found = with_costs([site], policy, [True])[0]
        >>> found.cost("energy"), found.cost("macs + 2*energy")
        (1.5, 4.0)
    """
    import sympy

    names = [site.names for site in sites]
    own = {
        cost: most_specific(f"costs[{cost!r}]", names, patterns)
        for cost, patterns in policy.costs.items()
    }
    sizes: dict[str, int] = {}
    for site in sites:
        sizes.update(site.sizes)
    mixed = [
        budget.cost
        for budget in parse_budget(policy.budget, policy.cost, tuple(policy.costs))
        if is_expression(budget.cost)
    ]
    found = []
    for site, kept in zip(sites, masked, strict=True):
        costs: dict[str, sympy.Expr] = dict(site.costs)
        if kept and policy.storage != "values":
            how = stored(site, policy.storage, itemsize(site))
            costs["bytes"] = sympy.nsimplify(how.per_kept)
        for cost, values in own.items():
            costs[cost] = sympy.Float(values.get(site.name, 0.0))
        for text in mixed:
            known = (*COSTS, *own)
            parts = parse_expression(text, known, {*SIZES, *sizes})
            if parts.keys() <= costs.keys():
                terms = (k * costs[name] for name, k in parts.items())
                costs[text] = sympy.Add(*terms)
        found.append(replace(site, costs=costs, sizes={**sizes, **site.sizes}))
    return tuple(found)


def overhead(sites: Sequence[Site], policy: Policy, cost: str) -> float:
    """What storing these masked weights costs whatever is kept.

    In an expression, the share of its bytes.
    """
    weight = 1.0
    if is_expression(cost):
        sizes = {*SIZES, *(name for site in sites for name in site.sizes)}
        known = (*COSTS, *policy.costs)
        parts: Mapping[str, sympy.Expr] = parse_expression(cost, known, sizes)
        part = parts.get("bytes")
        weight = float(part.subs(dict(sites[0].sizes))) if part is not None else 0.0
    elif cost != "bytes":
        weight = 0.0
    if not weight:
        return 0.0
    return weight * sum(stored(s, policy.storage, itemsize(s)).fixed for s in sites)


def itemsize(site: Site) -> int:
    """Bytes of one of a site's weights; 4 where there is no tensor."""
    return 4 if site.weight is None else site.weight.element_size()
