"""What is asked of the solver, and what it may know beforehand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from sparsefx.errors import MaskError, PolicyError
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.solution import Cut, Solution


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What masks are asked for; one entry of each sequence a site.

    Attributes:
        values: latent weights or values of their groups; signs do not matter.
        limits: the budgets over the sites; sites that cost nothing stay dense.
        worths: what a unit of ``|value|`` is worth in each site, given what a kept
            entry of each costs and the sums of magnitudes.
        bounds: least and greatest number of entries to keep.
        beta: inverse temperature, above 0.
        names: for messages.
        sharpness: what beta is multiplied by; 1 everywhere if not given.
        inclusive: of one budget, also keep the entry at which it runs out, and its
            ties; see `sparsefx.solver.inclusive_masks`.
    """

    values: Sequence[Tensor]
    limits: Limits
    worths: Callable[[Sequence[float], Sequence[float]], Sequence[float]]
    bounds: Sequence[tuple[int, int]]
    beta: float
    names: Sequence[str]
    sharpness: Sequence[float] | None = None
    inclusive: bool = False

    def __post_init__(self) -> None:
        """Refuses what no masks can be found for.

        Raises:
            MaskError: beta is not a finite number above 0.
            PolicyError: inclusive masks are asked for within several budgets or bounds.
        """
        if not 0.0 < self.beta < math.inf:
            raise MaskError(f"beta is {self.beta}; it must be a finite number above 0")
        rows = zip(self.names, self.values, self.bounds, strict=True)
        bound = [n for n, v, pair in rows if tuple(pair) != (0, v.numel())]
        if self.inclusive and (len(self.limits.amounts) > 1 or bound):
            what = f"bounds of {bound[0]!r}" if bound else "several budgets"
            raise PolicyError(
                "inclusive draws one threshold through all layers, for one budget; "
                f"{what} would not hold: leave them out, or set inclusive: false"
            )


@dataclass(frozen=True, slots=True)
class Warm:
    """What is known of the last masks; it saves sweeps and changes nothing else.

    Attributes:
        cuts: where hard masks are expected to be decided.
        dual, beta: the shared multiplier, and the beta it was found at.
        middles: magnitudes at which the soft masks were 1/2, one a site.
        multipliers: `Solution.multipliers`.
    """

    cuts: Sequence[Cut] | None = None
    dual: float = math.nan
    beta: float = math.nan
    middles: Sequence[float] = ()
    multipliers: Sequence[Sequence[float]] = ((), ())

    @classmethod
    def after(cls, last: Solution, beta: float) -> Warm:
        """What masks found at this beta tell the next request."""
        middles = [site.center - site.mu / site.slope for site in last.sites]
        return cls(last.cuts, last.dual, beta, middles, last.multipliers)

    def of(self, places: Sequence[int]) -> Warm:
        """The same of some of the sites; no middles where no multiplier is known."""
        known = self.middles if self.start(1.0) is not None else ()
        cuts = self.cuts and [self.cuts[i] for i in places]
        return replace(self, cuts=cuts, middles=[known[i] for i in places if known])

    def start(self, beta: float) -> float | None:
        """A first guess of the shared multiplier at another beta."""
        known = math.isfinite(self.dual) and self.beta > 0.0
        return self.dual * beta / self.beta if known else None
