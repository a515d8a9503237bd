"""Units and the weights inside them at once: what closed units own counts as dropped.

Gates close whole heads, neurons and channels; the soft masks of weights are solved for
the rest, under the same budget. For the solver the weights of closed units are zeros,
so that the budget buys weights of open units only. The weights stay as they are under
the gate, without gradient, and a unit that opens again is what it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sparsefx.errors import CaptureError, MaskError
from sparsefx.learners.units import MAGNITUDE
from sparsefx.masking.sparse_state import SparseState
from sparsefx.passes.find_units import find_units
from sparsefx.passes.units.unit_costs import among
from sparsefx.passes.units.unit_map import UnitMap
from sparsefx.policies import function_of
from sparsefx.settings.patterns import Selection
from sparsefx.tracing.capture import Capture
from sparsefx.training.build_units import group_site, owned
from sparsefx.training.plan import Plan, Target
from sparsefx.training.unit_gates import GateState, parts_of
from sparsefx.training.unit_part import UnitPart
from sparsefx.training.weight_coverage import left_apart


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


def units_around(
    root: nn.Module,
    state: SparseState,
    plan: Plan,
    macs: float,
    maps: Sequence[UnitMap],
) -> UnitPart:
    """The units around a model's masked weights, all open.

    Args:
        root: the model.
        state: of its weights.
        plan: of its weights.
        macs: what the whole model costs.
        maps: its units, of each graph.

    Raises:
        MaskError: no unit is left whose weights are all masked.
    """
    dense = left_apart(root).keys() - set(state.names)
    own = [
        group.name
        for group in maps[-1].groups.values()
        if all(name in state.names for name in group.consumers)
        and dense.isdisjoint(group.producers)
        and all(group.name in units.groups for units in maps)
    ]
    groups = among(maps[-1], own)
    policy = plan.policy
    if not groups:
        raise MaskError(
            f"unit_density is {policy.unit_density:g}, but {type(root).__name__} "
            "has no units behind which all weights are masked; leave it at 1"
        )
    bounds = Selection(True, "", policy.min_density, policy.max_density)
    sites = tuple(group_site(group, bounds) for group in groups)
    cost = owned(sites, "macs")
    limit = macs - (1 - policy.unit_density) * cost
    gates = GateState(groups, parts_of(groups, state.names), scored=False)
    device = next((w.device for w in state.weights()), None)
    targets = (Target("macs", limit, macs - cost),)
    return UnitPart(
        Plan(policy, sites, (), targets, {}, (), {}, function_of("cost_budget")),
        groups,
        gates.to(device),
        {
            name: places[0]
            for name, places in zip(state.names, state.owners, strict=True)
        },
        MAGNITUDE,
        name="weights.units",
    )
