"""The report of what a model keeps now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsefx.reports.report import Report
from sparsefx.reports.report_rows import BudgetReport, LayerReport, Total
from sparsefx.settings.budget import COSTS
from sparsefx.solver.projection import BUDGET_SLACK
from sparsefx.training.part import Part
from sparsefx.training.plan import Plan


def reported(plan: Plan, parts: Sequence[Part]) -> Report:
    """The report of a model's parts, the last of which spends the plan's budgets."""

    def rows(costs: Sequence[str]) -> tuple[LayerReport, ...]:
        return tuple(row for part in parts for row in part.rows(costs))

    return report_of(plan, parts[-1].counts(), rows)


def report_of(
    plan: Plan,
    counts: Sequence[int],
    rows: Callable[[Sequence[str]], tuple[LayerReport, ...]],
) -> Report:
    """What is kept where, at what cost, at step 0.

    Args:
        plan: of the model.
        counts: kept weights of each of its sites.
        rows: one a weight, with costs of the names it is given.
    """
    known = [cost for cost in COSTS if cost in plan.fixed]
    names = tuple(dict.fromkeys([*known, *(t.cost for t in plan.targets)]))
    fixed = {**plan.fixed, **{t.cost: t.fixed for t in plan.targets if t.fixed > 0}}
    kept = [*counts, *(site.numel for site in plan.dense)]
    totals = {}
    for name in names:
        sites = (*plan.sites, *plan.dense)
        prices = [site.cost(name) for site in sites]
        spent = sum(p * n for p, n in zip(prices, kept, strict=True))
        dense = sum(p * s.numel for p, s in zip(prices, sites, strict=True))
        given = plan.original.get(name, dense)
        totals[name] = Total(spent, dense, fixed.get(name, 0), given)
    budgets = {}
    for target in plan.targets:
        spent = totals[target.cost].kept + target.fixed
        met = spent <= target.limit * (1 + BUDGET_SLACK)
        budgets[target.cost] = BudgetReport(target.limit, spent, met)
    return Report(
        policy=plan.policy.name,
        step=0,
        frozen=False,
        layers=rows(names),
        totals=totals,
        budgets=budgets,
        coverage=plan.coverage,
    )
