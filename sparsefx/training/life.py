"""The life of a sparse model: what `sparsefx.transform` leaves in it, and its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError
from sparsefx.masking.masked_module import unwrapped
from sparsefx.masking.places import Places
from sparsefx.masking.state_keys import CHILD, of_dense
from sparsefx.reports.report import BudgetReport, HistoryPoint, Report, Total
from sparsefx.settings.budget import COSTS
from sparsefx.solver.projection import BUDGET_SLACK
from sparsefx.training.part import Moment, Part, Proposal
from sparsefx.training.plan import Plan
from sparsefx.training.step_report import StepReport

_HISTORY = 500  # points kept for the report's curve; thinned out beyond


class Life(nn.Module):
    """A plan, where the model is on its way, and the parts that are sparse.

    Attributes:
        plan: what was asked for.
        recipe: the same as JSON, for checkpoints (`sparsefx.training.recipe`).
        parts: weights, units, tokens; the last one spends the plan's budgets.
        step: optimizer steps taken.
        frozen: masks no longer move.
        history: points of the budget curve.
        finalized: `sparsefx.finalize` has been called.
    """

    def __init__(self, plan: Plan) -> None:  # noqa: D107
        super().__init__()
        self.plan = plan
        self.recipe: Mapping[str, Any] = {}
        self.parts: list[Part] = []
        self.step = 0
        self.frozen = False
        self.history: list[HistoryPoint] = []
        self.finalized = False
        self.places: Places | None = None  # where the weights stood at first
        self._dense = False  # the checkpoint being read is a dense model's
        self.register_load_state_dict_post_hook(_loaded)  # type: ignore[no-untyped-call]

    def add(self, part: Part) -> None:
        """Takes in one more part."""
        self.parts.append(part)
        if part.state is not None:
            self.add_module(part.name, part.state)

    @property
    def names(self) -> tuple[str, ...]:
        """What is masked: every key of a checkpoint is an attribute, as some ask."""
        return tuple(site.name for site in self.plan.sites)

    def forward(self, value: Any) -> Any:
        """Returns ``value``: containers that call all their children stay right."""
        return value

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        kind = "frozen" if self.frozen else "learning"
        return f"{len(self.plan.sites)} masked, step {self.step}, {kind}"

    # -- steps -----------------------------------------------------------------------

    def begin(self, *, drawn: bool = True) -> None:
        """The masks of the step the model is at; not `drawn` by magnitudes alone."""
        found = [part.begin(self._moment(self.step), drawn) for part in self.parts]
        self.frozen = False
        self._write([Proposal(writes=writes) for writes in found])

    @torch.no_grad()
    def advance(self, optimizer: torch.optim.Optimizer | None = None) -> StepReport:
        """Counts one optimizer step and moves the masks as the schedule says.

        Either all of it happens or, where something raises, nothing.
        """
        self.settle()
        moment = self._moment(self.step + 1, optimizer)
        found = [part.propose(moment) for part in self.parts]
        report, point = found[-1].later, None
        if report is None:
            report = described(self.plan, moment, found[-1])
            point = _point(report)
        history = self._longer(point)
        self._write(found)
        self.step, self.frozen = moment.number, moment.ends_frozen
        self.history = history
        return report

    def settle(self) -> None:
        """Adds the last step to the curve, if a device has taken it."""
        for part in self.parts:
            last = part.settle()
            if last is not None:
                self.history = self._longer(_point(last))

    def freeze(self) -> None:
        """Masks stand still from now on, as they are."""
        self._write([Proposal(writes=part.stand()) for part in self.parts])
        self.frozen = True

    @torch.no_grad()
    def _write(self, proposals: Sequence[Proposal]) -> None:
        for proposal in proposals:
            for write in proposal.writes:
                write()

    def _moment(
        self, number: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Moment:
        schedule = self.plan.policy.schedule()
        return Moment(
            taken=self.step,
            number=number,
            phase=schedule.at(number),
            following=schedule.at(number + 1),
            frozen=self.frozen,
            optimizer=optimizer,
        )

    def _longer(self, point: HistoryPoint | None) -> list[HistoryPoint]:
        """The curve with a point more; thinned out when there are too many."""
        history = self.history if point is None else [*self.history, point]
        if len(history) > _HISTORY:
            del history[1:-1:2]
        return history

    # -- answers ---------------------------------------------------------------------

    def masks(self) -> dict[str, Tensor]:
        """Hard masks by name of a parameter, or of a group of units."""
        return {n: m for part in self.parts for n, m in part.masks().items()}

    def report(self) -> Report:
        """What is kept where, at what cost; see `sparsefx.report`."""
        self.settle()
        plan, counts = self.plan, self.parts[-1].counts()
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
            step=self.step,
            frozen=self.frozen,
            layers=tuple(row for part in self.parts for row in part.rows(names)),
            totals=totals,
            budgets=budgets,
            coverage=plan.coverage,
            history=tuple(self.history),
        )

    def resume(self, *, anew: bool) -> None:
        """After its tensors have been read; `anew` finds the masks by magnitudes."""
        if anew:
            self.begin(drawn=False)
        for part in self.parts:
            part.reload(self._moment(self.step))

    def within(self) -> bool:
        """Whether masks cost no more than the budgets of the moment allow."""
        phase = self.plan.policy.schedule().at(self.step)
        allowed = self.plan.allowed(phase.budget_progress)
        kept = [self.report().budgets[t.cost].kept for t in self.plan.targets]
        rows = zip(kept, allowed, strict=True)
        return all(cost <= limit * (1 + 1e-12) for cost, limit in rows)

    # -- checkpoints -----------------------------------------------------------------

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        names = "\n".join(self.names).encode()
        curve = torch.full((_HISTORY, 4), -1.0, dtype=torch.float64)
        points = [[p.step, p.limit, p.soft, p.hard] for p in self.history]
        curve[: len(points)] = torch.tensor(points, dtype=curve.dtype).view(-1, 4)
        destination[f"{prefix}step"] = torch.tensor(self.step)
        destination[f"{prefix}frozen"] = torch.tensor(self.frozen)
        destination[f"{prefix}names"] = torch.tensor(list(names), dtype=torch.uint8)
        destination[f"{prefix}history"] = curve
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """A checkpoint without masks is a dense one: masks are found anew."""
        self._dense = of_dense(state_dict, prefix)
        if self._dense:
            return
        missing: list[str] = rest[2]
        wanted = [f"{prefix}{name}" for name in ("step", "frozen", "names", "history")]
        missing += [key for key in wanted if key not in state_dict]
        step, frozen, names, curve = (state_dict.pop(k, None) for k in wanted)
        if names is not None:
            self._check_names(bytes(names.tolist()).decode().split("\n"))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if step is None or frozen is None or curve is None:
            return
        self.step, self.frozen = int(step), bool(frozen)
        rows = [row for row in curve.tolist() if row[0] >= 0]
        self.history = [HistoryPoint(int(number), *costs) for number, *costs in rows]

    def _check_names(self, theirs: Sequence[str]) -> None:
        ours = self.names
        if tuple(theirs) != (ours or ("",)):
            odd = sorted(set(theirs) ^ set(ours))[:5] or ["their order"]
            raise MaskError(
                f"the checkpoint masks {len(theirs)} weights, this model {len(ours)}; "
                f"they differ in {', '.join(odd)}; transform the model with the policy "
                "the checkpoint was made with"
            )


def life_of(module: nn.Module, verb: str) -> Life:
    """What `sparsefx.transform` left in a model.

    Raises:
        MaskError: it is not there, what ``verb`` says is not for finalized models, or
            a masked layer was replaced.
    """
    root = unwrapped(module)
    life = root._modules.get(CHILD)
    if not isinstance(life, Life):
        raise MaskError(
            f"{verb} needs what sparsefx.transform returned; this "
            f"{type(root).__name__} has no masks (it was never transformed, or is "
            "already finalized)"
        )
    if life.places is None:
        life.places = Places(root)
    life.places.check(root)
    if life.finalized and verb in ("step", "finalize"):
        raise MaskError(
            f"{verb} after finalize: this model has been finalized and its masks are "
            "final; train the model that finalize returned, or transform again"
        )
    return life


def described(plan: Plan, moment: Moment, found: Proposal) -> StepReport:
    """The report of a step that the host takes."""
    allowed = plan.allowed(moment.phase.budget_progress)
    hard = plan.spent(found.counts)
    rows = list(zip(plan.targets, allowed, found.soft, hard, strict=True))
    spent = [cost < plan.total(target) for target, _, _, cost in rows]
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
    )


def _point(report: StepReport) -> HistoryPoint:
    costs = report.budget, report.soft_cost, report.hard_cost
    return HistoryPoint(report.step, *costs)


def _loaded(life: Life, _: Any) -> None:
    """Runs when the parts below have been loaded too."""
    life.resume(anew=life._dense)
