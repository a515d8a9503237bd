"""The policy that takes the density of each site as given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsefx.errors import BudgetError, PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation, planned, prices, some
from sparsefx.policies.feasibility import check_feasible
from sparsefx.policies.unit_bounds import density_bounds
from sparsefx.settings.patterns import most_specific


@dataclass(frozen=True, slots=True)
class Layerwise:
    """The policy function; the densities are a setting."""

    def __call__(
        self,
        sites: Sequence[Site],
        budget: float,
        cost: str = "macs",
        budgets: Mapping[str, float] | None = None,
        densities: Mapping[str, float] | None = None,
    ) -> Allocation:
        """Gives each site the density that its pattern says.

        While a ramp allows more, every density lies the same share of the way to 1:
        ``density_l = d_l + s (upper_l - d_l)`` with the largest ``s`` that all budgets
        pay.

        Args:
            sites: the maskable weights.
            budget: cost allowed for these sites, above 0, in the unit of ``cost``.
            cost: name of the cost.
            budgets: all budgets by name, where there are several.
            densities: kept fractions by pattern; the most specific one counts. Sites
                with a bound of their own keep within it.

        Raises:
            PolicyError: a site has no density.
            BudgetError: the densities cost more than a budget.

        Example:
            >>> import sympy
            >>> one = {"params": sympy.Integer(1)}
            >>> pair = [Site(name, name, "linear", (5, 4), one) for name in "ab"]
            >>> given = {"*": 0.5, "b": 0.25}
            >>> layerwise(pair, 15, "params", densities=given).densities
            {'a': 0.5, 'b': 0.25}
        """
        given = _given(sites, densities)
        limits = [density_bounds(site) for site in sites]
        pairs = zip(sites, limits, strict=True)
        bare = [s for s, (low, high) in pairs if s.name not in given and low < high]
        if bare:
            raise PolicyError(
                f"densities has no pattern for {some(bare)}; give one for every layer, "
                'such as {"*": 0.1}'
            )
        asked = self.asked(sites, densities)
        share = 1.0
        every = {cost: budget, **(budgets or {})}
        for name, amount in every.items():
            check_feasible(sites, amount, name, every)
            weights = [
                p * s.numel for p, s in zip(prices(sites, name), sites, strict=True)
            ]
            least = math.fsum(w * d for w, d in zip(weights, asked, strict=True))
            most = math.fsum(w * d for w, (_, d) in zip(weights, limits, strict=True))
            if least > amount * (1 + 1e-9):
                raise BudgetError(
                    f"the densities given cost {least:.6g} {name}, but the budget "
                    f"allows {amount:.6g}; lower densities, or raise budget"
                )
            if most > least:
                share = min(share, max(amount - least, 0.0) / (most - least))
        found = [
            d + share * (most - d) for d, (_, most) in zip(asked, limits, strict=True)
        ]
        return planned(found, sites, budget, cost, budgets)

    def asked(
        self, sites: Sequence[Site], densities: Mapping[str, float] | None = None
    ) -> list[float]:
        """The densities given, within the sites' bounds; the most where there is none.

        Example:
            >>> import sympy
            >>> one = {"params": sympy.Integer(1)}
            >>> sites = [Site("w", "", "linear", (5, 4), one, min_density=0.5)]
            >>> layerwise.asked(sites, {"*": 0.1})
            [0.5]
        """
        given = _given(sites, densities)
        rows = ((site.name, *density_bounds(site)) for site in sites)
        return [min(max(given.get(n, high), low), high) for n, low, high in rows]


layerwise = Layerwise()


def _given(
    sites: Sequence[Site], densities: Mapping[str, float] | None
) -> dict[str, float]:
    names = [site.names for site in sites]
    return most_specific("densities", names, densities or {})
