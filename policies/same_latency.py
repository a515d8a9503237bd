"""The policy that makes every layer faster by the same factor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from sparsefx.errors import PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation, planned, prices
from sparsefx.policies.feasibility import check_feasible
from sparsefx.policies.latency_line import Line
from sparsefx.policies.policy_function import Context
from sparsefx.policies.unit_bounds import density_bounds

_HALVINGS = 80


@dataclass(frozen=True, slots=True)
class SameLatency:
    """Every layer takes the same share of its own dense time; a policy function.

    Attributes:
        lines: what was measured, by site name; other sites stay as dense as they may.
            `sparsefx.transform` measures them if they are None.
    """

    may_empty: ClassVar[bool] = True
    lines: Mapping[str, Line] | None = None

    def prepare(
        self, model: nn.Module, sites: Sequence[Site], context: Context
    ) -> SameLatency:
        """Measures every layer, if nothing has been measured."""
        return SameLatency(context.latencies()) if self.lines is None else self

    def __call__(
        self,
        sites: Sequence[Site],
        budget: float,
        cost: str = "latency_ms",
        budgets: Mapping[str, float] | None = None,
    ) -> Allocation:
        """The densities at which all layers are as much faster as the budgets ask.

        Finds the largest ``t`` in [0, 1] that every budget pays, with

            density_l = clip((t dense_l - fixed_l) / slope_l, lower_l, upper_l)

        where a layer takes ``fixed_l + slope_l density_l`` milliseconds.

        Raises:
            BudgetError: a budget is below what the lower bounds cost.
            PolicyError: nothing has been measured.

        Example:
            >>> import sympy
            >>> one = {"params": sympy.Integer(1)}
            >>> pair = [Site(name, name, "linear", (10, 10), one) for name in "ab"]
            >>> slow, quick = Line(4, 1, 10, 0, "csr"), Line(2, 0, 10, 0, "csr")
            >>> same = SameLatency({"a": slow, "b": quick})
            >>> found = same(pair, 20, "params").densities
            >>> [round(found[name], 6) for name in "ab"]  # half the time of each
            [0.1, 0.1]
        """
        if self.lines is None:
            raise PolicyError(
                "the policy same_latency is measured on a model; give it to "
                "sparsefx.transform, or pass SameLatency(lines) as policy"
            )
        every = {cost: budget, **(budgets or {})}
        for name, amount in every.items():
            check_feasible(sites, amount, name, every)
        rows = {name: prices(sites, name) for name in every}

        def paid(densities: Sequence[float]) -> bool:
            return all(
                math.fsum(
                    p * s.numel * d
                    for p, s, d in zip(rows[name], sites, densities, strict=True)
                )
                <= amount
                for name, amount in every.items()
            )

        low, high = 0.0, 1.0
        if not paid(self._at(sites, high)):
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                low, high = (
                    (middle, high) if paid(self._at(sites, middle)) else (low, middle)
                )
            high = low
        return planned(self._at(sites, high), sites, budget, cost, budgets)

    def _at(self, sites: Sequence[Site], share: float) -> list[float]:
        found, lines = [], self.lines or {}
        for site in sites:
            line = lines.get(site.name)
            density = 1.0
            if line is not None:
                density = 1.0 if share >= 1 else line.at(share * line.dense)
            least, most = density_bounds(site)
            found.append(min(max(density, least), most))
        return found


same_latency = SameLatency()
