"""The policy that cuts most where the loss says it hurts least."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation, planned, prices
from sparsefx.policies.feasibility import check_feasible
from sparsefx.policies.policy_function import Context
from sparsefx.policies.unit_bounds import density_bounds
from sparsefx.tracing.preserve import in_eval

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
_NEEDS = (
    "the policy sensitivity needs calibration=[(x, y), ...] and loss=: give a few "
    "batches to sparsefx.transform, or pass what measure_sensitivity returns as policy"
)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What cutting each site alone does to the loss; a policy function.

    Attributes:
        levels: the densities tried, increasing, the last one 1.
        increases: rise of the mean loss at each level, by site name;
            `sparsefx.transform` measures them if they are None.
    """

    levels: tuple[float, ...] = LEVELS
    increases: Mapping[str, tuple[float, ...]] | None = None

    def prepare(
        self, model: nn.Module, sites: Sequence[Site], context: Context
    ) -> Sensitivity:
        """Measures every site on the calibration batches, if nothing has been.

        Raises:
            PolicyError: calibration or loss is missing.
        """
        if self.increases is not None:
            return self
        if context.loss is None:
            raise PolicyError(_NEEDS)
        return measure_sensitivity(
            model, sites, context.calibration, context.loss, self.levels
        )

    def __call__(
        self,
        sites: Sequence[Site],
        budget: float,
        cost: str = "macs",
        budgets: Mapping[str, float] | None = None,
    ) -> Allocation:
        """The densities of least summed rise of the loss that the budgets pay for.

        The linear program over shares ``y`` of the levels, solved exactly by HiGHS:

            minimise   sum_lk rise_lk y_lk
            subject to sum_k y_lk = 1,  y >= 0,
                       sum_lk price_bl numel_l level_k y_lk <= budget_b
                       min_density_l <= sum_k level_k y_lk <= max_density_l

        Raises:
            BudgetError: a budget is below what the lower bounds cost.
            PolicyError: SciPy is missing, or a site was not measured.
        """
        if self.increases is None:
            raise PolicyError(_NEEDS)
        every = {cost: budget, **(budgets or {})}
        for name, amount in every.items():
            check_feasible(sites, amount, name, every)
        return planned(self._solve(sites, every), sites, budget, cost, budgets)

    def _solve(
        self, sites: Sequence[Site], budgets: Mapping[str, float]
    ) -> list[float]:
        optimize, increases = _scipy(), self.increases or {}
        levels = (0.0, *self.levels)
        limited = [density_bounds(site) for site in sites]
        free = [most > least for least, most in limited]
        count = len(levels)
        rise: list[float] = []
        for site, open_ in zip(sites, free, strict=True):
            known = increases.get(site.name)
            if known is None and open_:
                raise PolicyError(
                    f"sensitivity has not measured {site.name}; calibrate this model"
                )
            found = known or (0.0,) * len(self.levels)
            # nothing kept is worse than the least that was tried, by as much again
            rise += [2 * max(found[0], 0.0) - min(found[-1], 0.0), *found]
        unit = max(map(abs, rise)) or 1.0
        zero = [0.0] * (count * len(sites))
        above, limits, equal = [], [], []
        for name, amount in budgets.items():
            row = prices(sites, name)
            parts = zip(row, sites, strict=True)
            above.append([p * s.numel * k / amount for p, s in parts for k in levels])
            limits.append(1.0)
        for i, (least, most) in enumerate(limited):
            place = slice(i * count, (i + 1) * count)
            for sign, bound in ((1, most), (-1, -least)):
                line = zero.copy()
                line[place] = [sign * level for level in levels]
                above.append(line)
                limits.append(bound)
            line = zero.copy()
            line[place] = [1.0] * count
            equal.append(line)
        answer = optimize.linprog(
            [r / unit for r in rise],
            A_ub=above,
            b_ub=limits,
            A_eq=equal,
            b_eq=[1.0] * len(sites),
            bounds=(0, None),
            method="highs",
        )
        if answer.x is None:
            raise PolicyError(f"the linear program has no solution: {answer.message}")
        # to the last bit within the bounds and the budgets
        safe = 1 - 1e-9
        kept = []
        for i, (least, most) in enumerate(limited):
            shares = answer.x[i * count : (i + 1) * count]
            density = safe * sum(k * y for k, y in zip(levels, shares, strict=True))
            kept.append(min(max(density, least), most))
        return kept


@torch.no_grad()
def measure_sensitivity(
    model: nn.Module,
    sites: Sequence[Site],
    calibration: Sequence[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor],
    levels: Sequence[float] = LEVELS,
) -> Sensitivity:
    """Tries every site alone at every level, in eval mode, on a few batches.

    The smallest weights of the site are zero while the loss is taken; afterwards
    everything is as before. It takes ``sites * levels * batches`` forward passes.

    Args:
        model: the dense model.
        sites: its maskable weights, with the live tensors in ``weight``.
        calibration: pairs of input (a tensor, or a tuple of positional inputs) and
            target.
        loss: maps output and target to a number.
        levels: the densities tried, increasing, the last one 1.

    Raises:
        PolicyError: there is no batch, or the loss is no finite number.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> import sympy
        >>> site = Site("weight", "", "linear", (2, 4), {}, weight=layer.weight)
        >>> batch = (torch.ones(3, 4), torch.zeros(3, 2))
        >>> found = measure_sensitivity(layer, [site], [batch], nn.functional.mse_loss)
        >>> found.increases["weight"][-1]
        0.0
    """
    if not calibration:
        raise PolicyError(_NEEDS)

    def mean() -> float:
        total = 0.0
        for inputs, target in calibration:
            args = inputs if isinstance(inputs, tuple) else (inputs,)
            total += float(loss(model(*args), target))
        return total / len(calibration)

    with in_eval(model):
        dense = mean()
        if not abs(dense) < float("inf"):
            raise PolicyError(
                f"the loss on the calibration batches is {dense}; it must be finite"
            )
        increases = {}
        for site in sites:
            weight = site.weight
            assert weight is not None, "sites of a model have their weights"
            whole = weight.detach().clone()
            order = whole.abs().flatten().argsort(stable=True)
            rises = []
            for level in levels:
                dropped = order[: whole.numel() - round(level * whole.numel())]
                weight.view(-1)[dropped] = 0.0
                rises.append(mean() - dense if len(dropped) else 0.0)
                weight.copy_(whole)
            increases[site.name] = tuple(rises)
    return Sensitivity(tuple(levels), increases)


sensitivity = Sensitivity()


def _scipy() -> Any:
    try:
        return importlib.import_module("scipy.optimize")
    except ImportError as error:
        raise PolicyError(
            "the policy sensitivity needs SciPy's linear programs: pip install scipy"
        ) from error
