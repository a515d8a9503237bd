"""Whether any masks meet the budgets, and which layers forbid it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sparsefx.errors import BudgetError
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import prices, some
from sparsefx.policies.unit_bounds import bounds, label
from sparsefx.reports.text_table import human, percent, share, text_table
from sparsefx.solver.projection import BUDGET_SLACK

_ROWS = 8  # layers of a table


def check_feasible(
    sites: Sequence[Site],
    budget: float,
    cost: str,
    budgets: Mapping[str, float] | None = None,
) -> None:
    """Refuses a budget that no masks within the sites' bounds can meet.

    Bounds are least counts, and every cost grows with every count: what meets each
    budget alone meets all of them together.

    Args:
        sites: the maskable weights, with their bounds.
        budget: cost allowed for these sites.
        cost: name of the cost.
        budgets: all budgets by name, where there are several; for the message.

    Raises:
        BudgetError: ``budget`` is not above 0, or below the cost of the lower
            bounds; the message gives the feasible range as fractions of dense, a table
            of what each budget needs, and one of the layers to blame.

    Example:
        >>> import sympy
        >>> one = {"params": sympy.Integer(1)}
        >>> site = Site("fc.weight", "fc", "linear", (8, 4), one, min_density=0.5)
        >>> try:
        ...     check_feasible([site], 8, "params")
        ... except BudgetError as error:
        ...     print(str(error).partition(chr(10) * 2)[2])
        budget  allowed     least        most          satisfiable
        ------  ----------  -----------  ------------  -----------
        params  8 = 25.0 %  16 = 50.0 %  32 = 100.0 %  no
        <BLANKLINE>
        layer  min_density  max_density  least params  of the budget
        -----  -----------  -----------  ------------  -------------
        fc             0.5            1            16        200.0 %
    """
    per_weight = prices(sites, cost)
    ends = [_weights(site) for site in sites]
    least = [p * low for p, (low, _) in zip(per_weight, ends, strict=True)]
    most = sum(p * high for p, (_, high) in zip(per_weight, ends, strict=True))
    dense = sum(p * s.numel for p, s in zip(per_weight, sites, strict=True))
    if not budget > 0 or math.isinf(budget):
        raise BudgetError(
            f"budget {budget:g} {cost} is not allowed; give a finite cost above 0, at "
            f"least {sum(least):.6g} ({sum(least) / dense:.4g} of dense)"
        )
    if budget < sum(least) * (1 - BUDGET_SLACK):
        order = sorted(range(len(sites)), key=lambda i: -least[i])
        blocking = [sites[i] for i in order if least[i] > 0]
        given, needed = budget / dense, sum(least) / dense
        digits = 4 if f"{given:.4g}" != f"{needed:.4g}" else 12
        raise BudgetError(
            f"budget {given:.{digits}g} is below the {needed:.{digits}g} that layers "
            f"kept dense already cost ({some(blocking)}); raise budget to between "
            f"{needed:.{digits}g} and {most / dense:.4g} of the dense {cost}, or lower "
            "their min_density / shorten exclude\n\n"
            f"{satisfiable(sites, {cost: budget, **(budgets or {})})}\n\n"
            f"{_blockers(blocking, cost, budget)}"
        )


def satisfiable(sites: Sequence[Site], budgets: Mapping[str, float]) -> str:
    """A table of the budgets: allowed, least and most, satisfiable or not.

    Args:
        sites: the maskable weights, with their bounds.
        budgets: cost allowed for these sites, by name.

    Example:
        >>> import sympy
        >>> one = {"params": sympy.Integer(1)}
        >>> site = Site("fc.weight", "fc", "linear", (8, 4), one, max_density=0.5)
        >>> print(satisfiable([site], {"params": 8}))
        budget  allowed     least      most         satisfiable
        ------  ----------  ---------  -----------  -----------
        params  8 = 25.0 %  0 = 0.0 %  16 = 50.0 %  yes
    """
    rows = []
    for name, budget in budgets.items():
        per_weight = prices(sites, name)
        pairs = list(zip(per_weight, map(_weights, sites), strict=True))
        least = math.fsum(p * low for p, (low, _) in pairs)
        most = math.fsum(p * high for p, (_, high) in pairs)
        dense = math.fsum(p * s.numel for p, s in zip(per_weight, sites, strict=True))
        cells = [
            f"{human(x)} = {percent(share(x, dense))}" for x in (budget, least, most)
        ]
        met = budget >= least * (1 - BUDGET_SLACK) and budget > 0
        rows.append((name, *cells, "yes" if met else "no"))
    return text_table(("budget", "allowed", "least", "most", "satisfiable"), rows)


def _weights(site: Site) -> tuple[int, int]:
    """Least and greatest number of weights that a site may keep."""
    low, high = bounds(site)
    least = site.base + site.unit_size * low
    return least, min(site.base + site.unit_size * high, site.numel)


def _blockers(sites: Sequence[Site], cost: str, budget: float) -> str:
    rows = []
    for site in sites[:_ROWS]:
        least = _weights(site)[0] * site.cost(cost)
        low, high = f"{site.min_density:.4g}", f"{site.max_density:.4g}"
        part = percent(share(least, budget)) if budget > 0 else "-"
        rows.append((label(site), low, high, human(least), part))
    header = ("layer", "min_density", "max_density", f"least {cost}", "of the budget")
    table = text_table(header, rows, right=(1, 2, 3, 4))
    left = len(sites) - _ROWS
    return table + (f"\nand {left} more" if left > 0 else "")
