"""The policy that cuts most where the loss says it hurts least."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import PolicyError
from sparsefx.masking.site import Site
from sparsefx.policies.allocation import Allocation
from sparsefx.policies.error_curves import ErrorCurves
from sparsefx.policies.policy_function import Context
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
        """The densities of least summed rise of the loss; see `ErrorCurves`.

        Nothing kept is worse than the least that was tried, by as much again.

        Raises:
            BudgetError: a budget is below what the lower bounds cost.
            PolicyError: a site was not measured.
        """
        if self.increases is None:
            raise PolicyError(_NEEDS)
        points = {
            name: [
                (0.0, 2 * max(rises[0], 0.0) - min(rises[-1], 0.0)),
                *zip(self.levels, rises, strict=True),
            ]
            for name, rises in self.increases.items()
        }
        return ErrorCurves(points)(sites, budget, cost, budgets)


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
