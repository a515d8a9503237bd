"""What a step of the masks is told to have done."""

from __future__ import annotations

from sparsefx.training.part import Moment, Proposal
from sparsefx.training.plan import Plan
from sparsefx.training.step_report import StepReport


def described(plan: Plan, moment: Moment, found: Proposal) -> StepReport:
    """The report of a step that the host takes."""
    allowed = plan.allowed(moment.phase.budget_progress)
    hard = plan.spent(found.counts)
    rows = list(zip(plan.targets, allowed, found.soft, hard, strict=True))
    spent = [limit < plan.total(target) for target, limit, _, _ in rows]
    deciding = zip(rows, found.binding or spent, strict=True)
    return StepReport(
        step=moment.number,
        budget=allowed[0],
        soft_cost=found.soft[0],
        hard_cost=hard[0],
        budgets={
            target.cost: (limit, mean, cost) for target, limit, mean, cost in rows
        },
        beta=found.beta,
        mu=found.mu,
        sweeps=found.sweeps,
        changed=found.changed,
        kept_mask_mean=found.bought / max(sum(found.counts), 1),
        densities=plan.densities(found.counts),
        frozen=moment.ends_frozen,
        binding=tuple(target.cost for (target, *_), decides in deciding if decides),
        training_cost=moment.training_cost,
        explored=found.explored,
    )
