r"""What a step of training costs under masks, by a step of the dense model.

A step multiplies three times what a forward pass does: forward, backward to the
activations, and backward to the weights. The first two are done with the kept weights,
the third for those whose gradients are made:

.. math:: (2 f_S + f_G) / (3 f_D)

:math:`f_G` is :math:`f_S` where dropped weights receive no gradients, and
:math:`f_D` where all do: at a step of RigL or GraNet that grows by them, and at every
step of soft masks until they freeze. What no mask can drop is part of each; a rewrite
is counted by the model that it was given. It is what a device that skips zeros would
do, as the literature counts (Evci et al., "Rigging the Lottery", 2020, arXiv
1911.11134, appendix H), not what kernels of today save.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.reports.report_rows import Training
from sparsefx.training.part import Part
from sparsefx.training.plan import Plan


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """MACs of forward passes of the example inputs.

    Attributes:
        sites: by name, with everything kept.
        rest: of everything else.
        given: of the model as it was given.

    Example:
        >>> cost = TrainingCost({"w": 90.0}, 10.0, 100.0)
        >>> cost.of_step({"w": 0.1}, {"w": 0.1}), cost.of_step({"w": 0.1}, {"w": 1.0})
        (0.19, 0.46)
    """

    sites: Mapping[str, float]
    rest: float
    given: float

    @classmethod
    def of(cls, plan: Plan) -> TrainingCost | None:
        """That of a plan; None where MACs are not known."""
        every = (*plan.sites, *plan.dense)
        macs = {site.name: site.cost("macs") * site.numel for site in every}
        whole = math.fsum(macs.values())
        dense = math.fsum(macs.pop(site.name) for site in plan.dense)
        given = plan.original.get("macs", whole) + plan.fixed["macs"]
        return cls(macs, plan.fixed["macs"] + dense, given) if given > 0 else None

    def of_step(self, kept: Mapping[str, float], reached: Mapping[str, float]) -> float:
        """Of one step, by that of the dense model.

        Args:
            kept: by site, the share of kept entries.
            reached: by site, the share of entries whose gradients are made.
        """
        forward = self._forward(kept)
        weights = forward if reached is kept else self._forward(reached)
        return (2 * forward + weights) / (3 * self.given)

    def _forward(self, shares: Mapping[str, float]) -> float:
        return self.rest + math.fsum(m * shares[n] for n, m in self.sites.items())


class Spending:
    """What the steps so far have cost.

    Attributes:
        cost: of a step, if MACs are known.
        macs: of all steps, in those of a dense step; None if they are not known.
        kept: by site, the share of kept entries, if known.
    """

    def __init__(self, plan: Plan) -> None:  # noqa: D107
        self.cost = TrainingCost.of(plan)
        self.macs = 0.0 if self.cost else None
        self.kept: Mapping[str, float] | None = None

    def next(self, part: Part, frozen: bool) -> float | None:
        """`macs` with one more step under the masks that a part has now."""
        if self.cost is None or self.macs is None:
            return None
        kept = self.kept
        if kept is None:
            kept = {n: float(m.double().mean()) for n, m in part.masks().items()}
        return self.macs + self.cost.of_step(kept, part.reached(kept, frozen))

    def report(self, steps: int, part: Part) -> Training:
        """What training has cost and tried."""
        explored = part.explored()
        if self.cost is None or self.macs is None:
            return Training(steps, None, None, explored)
        dense = 3 * self.cost.given
        return Training(steps, round(dense * self.macs), round(dense * steps), explored)

    def as_tensor(self) -> Tensor:
        """`macs` for a state dict."""
        return torch.tensor(self.macs or 0.0, dtype=torch.float64)
