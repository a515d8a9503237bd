"""The policy that gives small and thin sites more: Erdős-Rényi-Kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation
from sparsefx.policies.proportional import scaled


def erk(
    sites: Sequence[Site],
    budget: float,
    cost: str = "macs",
    budgets: Mapping[str, float] | None = None,
) -> Allocation:
    """Gives each site a density in proportion to its dimensions' sum over product.

    Finds ``eps`` with ``density_l = clip(eps * sum(shape_l) / prod(shape_l),
    min_density_l, max_density_l)`` and ``sum_l price_l * numel_l * density_l =
    budget``: a site held by a bound leaves the sum, and the others share the rest.

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
        >>> shapes = {"a": (300, 784), "b": (100, 300), "c": (10, 100)}
        >>> mlp = [Site(n, n, "linear", s, one) for n, s in shapes.items()]
        >>> plan = erk(mlp, 26620, "params")
        >>> [round(density, 4) for density in plan.densities.values()]
        [0.0796, 0.2302, 1.0]
    """
    ratios = [sum(site.shape) / max(site.numel, 1) for site in sites]
    ratios = [ratio or 1.0 for ratio in ratios]
    return scaled(sites, budget, cost, ratios, budgets)
