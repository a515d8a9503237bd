"""Counts in steps: widths that hardware likes, such as multiples of 8 channels."""

from __future__ import annotations

from collections.abc import Sequence

from sparsefx.errors import BudgetError
from sparsefx.masking.site import Site
from sparsefx.solver.joint_budgets import Limits


def multiples(
    sites: Sequence[Site],
    limits: Sequence[tuple[int, int]],
    counts: Sequence[int],
    budgets: Limits,
) -> list[tuple[int, int]]:
    """Limits under which sites with a ``round_to`` keep a multiple of it, or all.

    Each such site's count is rounded down; what that frees is handed out in whole
    steps, to the sites that lost most of a step first, as far as every budget pays for
    it. Sites without a ``round_to`` keep their limits.

    Args:
        sites: with ``round_to`` and ``units``.
        limits: least and greatest number of units of each site, as of `stepped`.
        counts: units of each site that the budgets pay for together.
        budgets: the costs of a unit of each site, and what is allowed.

    Raises:
        BudgetError: the least multiples cost more than a budget.

    Example:
        >>> layer = Site("w", "", "linear", (3, 4), {}, round_to=4)
        >>> multiples([layer], [(0, 12)], [7], Limits(((1.0,),), (7.0,), ("macs",)))
        [(4, 4)]
    """
    found = [
        _down(site, low, count)
        for site, (low, _), count in zip(sites, limits, counts, strict=True)
    ]
    spent = [
        sum(p * n for p, n in zip(row, found, strict=True)) for row in budgets.costs
    ]
    for total, amount, name in zip(spent, budgets.amounts, budgets.names, strict=True):
        if total > amount:
            raise BudgetError(
                f"the least multiples of round_to that the layers' bounds allow cost "
                f"{total:.6g} {name}, but the budget leaves {amount:.6g} for them; "
                "raise the budget, or lower round_to or min_density"
            )
    lost = {i: (counts[i] - n) / sites[i].round_to for i, n in enumerate(found)}
    for i in sorted(lost, key=lambda i: (-lost[i], i)):
        site, more = sites[i], min(found[i] + sites[i].round_to, sites[i].units)
        if site.round_to == 1 or more > limits[i][1]:
            continue
        after = [
            total + row[i] * (more - found[i])
            for total, row in zip(spent, budgets.costs, strict=True)
        ]
        if all(a <= b for a, b in zip(after, budgets.amounts, strict=True)):
            found[i], spent = more, after
    return [
        limit if site.round_to == 1 else (count, count)
        for site, limit, count in zip(sites, limits, found, strict=True)
    ]


def stepped(site: Site, limit: tuple[int, int]) -> tuple[int, int]:
    """The limits between which a site's multiples lie.

    Raises:
        BudgetError: there is none.

    Example:
        >>> stepped(Site("w", "", "linear", (3, 4), {}, round_to=5), (1, 9))
        (5, 5)
    """
    low, high = limit
    if site.round_to == 1:
        return limit
    least = min(-(-low // site.round_to) * site.round_to, site.units)
    most = high if high == site.units else high // site.round_to * site.round_to
    if least > most:
        raise BudgetError(
            f"{site.name}: no multiple of round_to {site.round_to} lies between the "
            f"{low} and {high} of {site.units} units that its bounds allow; lower "
            "round_to, or widen min_density and max_density"
        )
    return least, most


def _down(site: Site, low: int, count: int) -> int:
    if site.round_to == 1 or count == site.units:
        return count
    return max(count // site.round_to * site.round_to, low)
