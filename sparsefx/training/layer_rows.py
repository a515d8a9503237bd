"""Rows of a report: what sites keep, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence

from sparsefx.masking.site import Site
from sparsefx.reports.report_rows import Cost, LayerReport


def layer_rows(
    sites: Sequence[Site],
    counts: Sequence[int],
    costs: Sequence[str],
    granularity: str | Sequence[str],
) -> tuple[LayerReport, ...]:
    """One row a site.

    Args:
        sites: weights, or groups of units.
        counts: what each keeps, in weights or units.
        costs: names of costs; those that a site does not know are 0.
        granularity: what is kept or dropped, of all or of each.
    """
    names = [granularity] * len(sites) if isinstance(granularity, str) else granularity

    def priced(site: Site, kept: int) -> dict[str, Cost]:
        each = {c: site.cost(c) if c in site.costs else 0.0 for c in costs}
        return {c: Cost(price * kept, price * site.numel) for c, price in each.items()}

    return tuple(
        LayerReport(
            site.name,
            site.op,
            site.shape,
            name,
            kept / max(site.numel, 1),
            priced(site, kept),
        )
        for site, kept, name in zip(sites, counts, names, strict=True)
    )
