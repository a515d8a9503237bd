"""The policy that gives every site the same density."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation
from sparsefx.policies.proportional import scaled


def uniform(
    sites: Sequence[Site],
    budget: float,
    cost: str = "macs",
    budgets: Mapping[str, float] | None = None,
) -> Allocation:
    """Gives every site the same density.

    Finds ``t`` with ``density_l = clip(t, min_density_l, max_density_l)`` and
    ``sum_l price_l * numel_l * density_l = budget``: where a bound holds a site back,
    the others share what is left.

    Args:
        sites: the maskable weights.
        budget: cost allowed for these sites, above 0, in the unit of ``cost``.
        cost: name of the cost.
        budgets: all budgets by name, where there are several; the one that allows
            the least decides.

    Raises:
        BudgetError: a budget is below what the lower bounds cost.

    Example:
        >>> import sympy
        >>> one = {"params": sympy.Integer(1)}
        >>> pair = [
        ...     Site("a", "a", "linear", (10, 10), one, max_density=0.1),
        ...     Site("b", "b", "linear", (10, 10), one),
        ... ]
        >>> uniform(pair, 50, "params").densities
        {'a': 0.1, 'b': 0.4}
    """
    return scaled(sites, budget, cost, [1.0] * len(sites), budgets)
