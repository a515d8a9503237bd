"""The policy that gives layers with few inputs and outputs more: Erdős-Rényi."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation
from sparsefx.policies.proportional import scaled


def er(
    sites: Sequence[Site],
    budget: float,
    cost: str = "macs",
    budgets: Mapping[str, float] | None = None,
) -> Allocation:
    """Gives each site a density in proportion to 1 / inputs + 1 / outputs.

    As `sparsefx.policies.erk.erk`, but the size of a convolution's kernel does not
    count; equal to it without convolutions. Source: Mocanu et al., "Scalable training
    of artificial neural networks with adaptive sparse connectivity", 2018 (arXiv
    1707.04780).

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
        >>> shapes = {"a": (8, 8, 3, 3), "b": (16, 16)}
        >>> pair = [Site(n, n, "conv2d", s, one) for n, s in shapes.items()]
        >>> er(pair, 176, "params").densities
        {'a': 0.25, 'b': 0.125}
    """
    ratios = [sum(1.0 / max(size, 1) for size in site.shape[:2]) for site in sites]
    return scaled(sites, budget, cost, ratios, budgets)
