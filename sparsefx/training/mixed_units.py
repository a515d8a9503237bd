"""Units and the weights inside them at once: what closed units own counts as dropped.

Gates close whole heads, neurons and channels; the soft masks of weights are solved for
the rest, under the same budget. For the solver the weights of closed units are zeros,
so that the budget buys weights of open units only. The weights stay as they are under
the gate, without gradient, and a unit that opens again is what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sparsefx.errors import CaptureError, MaskError
from sparsefx.learners.units import by_magnitude
from sparsefx.masking.sparse_state import CHILD, SparseState
from sparsefx.passes.find_units import find_units
from sparsefx.passes.gate_units import GateUnits
from sparsefx.passes.units.unit_map import Share, UnitGroup, UnitMap
from sparsefx.reports.report import Cost, LayerReport
from sparsefx.settings.schedule import Phase
from sparsefx.tracing.capture import Capture
from sparsefx.training.plan import Plan
from sparsefx.training.unit_state import UnitState
from sparsefx.training.unit_trainer import UnitTrainer, assign, situation

PATH = f"{CHILD}.units"


class MixedUnits(UnitState):
    """Gates of units, and which entries of each masked weight they own.

    Attributes:
        shares: by masked weight, in the order of the sites: the groups that divide it,
            by their number, and how.
    """

    def __init__(self, groups: Sequence[UnitGroup], names: Sequence[str]) -> None:  # noqa: D107
        super().__init__(groups)
        self.scored = False  # magnitudes decide
        self.shares: list[list[tuple[int, Share]]] = [
            [
                (number, share)
                for number, group in enumerate(groups)
                for share in group.tensors
                if share.name == name
            ]
            for name in names
        ]

    def opened(self, weight: Tensor, index: int) -> Tensor:
        """The weight of a site with zeros for what closed units own.

        Args:
            weight: or anything of its shape.
            index: of the site.
        """
        return self.gated(weight, self.shares[index])


def maps_of(root: nn.Module, found: Capture) -> list[UnitMap]:
    """The units of each part of a model's graph, before masks are in it.

    Raises:
        CaptureError: the model is not one graph.
    """
    if not found.whole:
        reason = next(iter(found.reasons.values()), "")
        raise CaptureError(
            f"units need the whole model as one graph; this {type(root).__name__} is "
            f"not ({reason}); leave unit_density at 1, or give other example_inputs"
        )
    parts = found.programs[""].parts()
    return [find_units(part.module(root)) for _, part in parts]


def add_units(
    root: nn.Module,
    state: SparseState,
    found: Capture,
    plan: Plan,
    maps: Sequence[UnitMap],
) -> None:
    """Gates the units of a masked model, all open.

    Raises:
        MaskError: no unit is left whose weights are all masked.
    """
    groups = tuple(
        group
        for group in maps[-1].groups.values()
        if all(name in state.names for name in group.consumers)
        and all(group.name in units.groups for units in maps)
    )
    if not groups:
        raise MaskError(
            f"unit_density is {plan.policy.unit_density:g}, but {type(root).__name__} "
            "has no units behind which all weights are masked; leave it at 1"
        )
    units = MixedUnits(groups, state.names)
    totals = {cost: t["total"] for cost, t in plan.table.totals().items()}
    owned = sum(group.macs * group.size for group in groups)
    limit = totals["macs"] - (1 - plan.policy.unit_density) * owned
    units.__dict__["trainer"] = UnitTrainer(
        plan.policy, groups, "macs", limit, totals["macs"], totals, totals
    )
    device = next((w.device for w in state.weights()), None)
    state.units = units.to(device)
    for (_, part), each in zip(found.programs[""].parts(), maps, strict=True):
        GateUnits(each, gates=units, path=PATH)(part.module(root))


@torch.no_grad()
def move_units(state: SparseState, phase: Phase) -> None:
    """Closes and opens units as the budget's ramp says; they keep their weights."""
    units = state.units
    assert isinstance(units, MixedUnits)
    tensors = dict(zip(state.names, state.weights(), strict=True))
    trainer: UnitTrainer = units.__dict__["trainer"]
    at = situation(tensors, units, trainer, phase.budget_progress)
    assign(units, by_magnitude(at))


def unit_rows(state: SparseState) -> tuple[LayerReport, ...]:
    """A row for each group of units; totals do not add them, they count weights."""
    units = state.units
    if not isinstance(units, MixedUnits):
        return ()
    trainer: UnitTrainer = units.__dict__["trainer"]
    rows = []
    for group in trainer.groups:
        kept = int((units[group.name] != 0).sum())
        costs: Mapping[str, Cost] = {
            cost: Cost(price * kept, price * group.size)
            for cost in trainer.dense
            for price in [_price(group, cost)]
        }
        rows.append(
            LayerReport(
                group.name,
                group.kind,
                (group.size,),
                "unit",
                kept / group.size,
                costs,
            )
        )
    return tuple(rows)


def _price(group: UnitGroup, cost: str) -> float:
    return {"macs": float(group.macs), "params": float(group.params)}.get(cost, 0.0)
