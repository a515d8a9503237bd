"""How many units (weights, or groups of them) a site may keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparsefx.errors import PolicyError
from sparsefx.masking.site import Site


def label(site: Site) -> str:
    """The layer's name for messages: the module's path, or the parameter's name."""
    return site.module or site.name


def bounds(site: Site) -> tuple[int, int]:
    """Least and greatest number of units (weights, or groups) a site may keep.

    A range of densities narrower than one unit gives its lower count.

    Example:
        >>> bounds(Site("w", "", "linear", (3, 3), {}, min_density=0.1))
        (1, 9)
    """
    upper = floor(unit_share(site, site.max_density), site.units)
    if upper < 0:
        raise PolicyError(
            f"{site.name}: max_density {site.max_density:g} is below the "
            f"{site.base / site.numel:g} that {site.granularity} keeps; raise it, or "
            "choose another granularity"
        )
    lower = ceil(unit_share(site, site.min_density), site.units)
    return min(max(lower, 0), upper), upper


def density_bounds(site: Site) -> tuple[float, float]:
    """The densities of those numbers: what whole units can make of a site's bounds.

    Example:
        >>> one = Site("w", "", "linear", (2, 2), {}, min_density=0.4, max_density=0.8)
        >>> density_bounds(one)
        (0.5, 0.75)
    """
    low, high = bounds(site)
    return site.density(low), site.density(high)


def unit_share(site: Site, density: float) -> float:
    """The share of a site's units that makes so dense a weight; below 0 for none.

    Example:
        >>> from sparsefx.settings.granularity import Granularity
        >>> unit_share(Site("w", "", "linear", (2, 8), {},
        ...                 granularity=Granularity.parse("2:4")), 0.75)
        0.5
    """
    if density >= 1.0 or site.groups is None:
        return density
    return (density * site.numel - site.base) / max(site.units * site.unit_size, 1)


def floor(density: float, numel: int) -> int:
    """Whole weights in ``density`` of ``numel``, rounded down."""
    # (k / n) * n may fall below k by rounding: a count within the slack is that count.
    return math.floor(density * numel + 1e-9 + 1e-15 * numel)


def ceil(density: float, numel: int) -> int:
    """Whole weights in ``density`` of ``numel``, rounded up."""
    return math.ceil(density * numel - 1e-9 - 1e-15 * numel)


def base_cost(sites: Sequence[Site], cost: str) -> float:
    """What the granularities of the sites keep whatever the budget."""
    return math.fsum(site.cost(cost) * site.base for site in sites if site.base)
