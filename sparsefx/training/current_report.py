"""The report of a sparse model as it is now."""

from __future__ import annotations

from sparsefx.masking.site import Site
from sparsefx.masking.sparse_state import SparseState
from sparsefx.reports.report import BudgetReport, Cost, LayerReport, Report, Total
from sparsefx.settings.budget import COSTS
from sparsefx.training.mixed_units import unit_rows
from sparsefx.training.trainer import Trainer, catch_up, current_masks


def reported(state: SparseState, trainer: Trainer) -> Report:
    """What is kept where, at what cost; see `sparsefx.report`."""
    plan = trainer.plan
    masks = zip(state.names, current_masks(state, trainer), strict=True)
    counts = {name: int(mask.count_nonzero()) for name, mask in masks}
    counts |= {site.name: site.numel for site in plan.dense}
    names = tuple(dict.fromkeys([*COSTS, *(target.cost for target in plan.targets)]))

    def costs(site: Site) -> dict[str, Cost]:
        kept = counts[site.name]
        return {
            name: Cost(site.cost(name) * kept, site.cost(name) * site.numel)
            for name in names
        }

    rows = tuple(
        LayerReport(
            site.name,
            site.op,
            site.shape,
            str(site.granularity) if site in plan.sites else "dense",
            counts[site.name] / max(site.numel, 1),
            costs(site),
        )
        for site in (*plan.sites, *plan.dense)
    )
    known = plan.table.totals().items()
    fixed: dict[str, float] = {cost: total["fixed"] for cost, total in known}
    fixed |= {target.cost: target.fixed for target in plan.targets if target.fixed > 0}
    totals = {}
    for name in names:
        kept = sum(row.costs[name].kept for row in rows)
        dense = sum(row.costs[name].dense for row in rows)
        given = plan.original.get(name, dense)
        totals[name] = Total(kept, dense, fixed.get(name, 0), given)
    budgets = {}
    for target in plan.targets:
        kept = totals[target.cost].kept + target.fixed
        met = kept <= target.limit * (1 + 1e-12)
        budgets[target.cost] = BudgetReport(target.limit, kept, met)
    catch_up(state, trainer)
    return Report(
        policy=plan.policy.name,
        step=int(state.step),
        frozen=bool(state.frozen),
        layers=(*rows, *unit_rows(state)),
        totals=totals,
        budgets=budgets,
        coverage=plan.coverage,
        history=tuple(trainer.history),
    )
