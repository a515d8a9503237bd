"""The life of a sparse model: what `sparsefx.transform` leaves in it, and its steps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsefx.errors import MaskError
from sparsefx.masking.masked_module import unwrapped
from sparsefx.masking.places import Places
from sparsefx.masking.state_keys import CHILD, of_dense
from sparsefx.reports.report import Report
from sparsefx.reports.report_rows import HistoryPoint
from sparsefx.training.copied_from import Source, take_over
from sparsefx.training.current_report import reported
from sparsefx.training.describe_step import described
from sparsefx.training.history import as_curve, from_curve, longer
from sparsefx.training.masked_names import as_tensor, check_names
from sparsefx.training.part import Moment, Part, Proposal
from sparsefx.training.plan import Plan
from sparsefx.training.step_report import StepReport
from sparsefx.training.training_cost import Spending


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
        spending: what the steps so far have cost.
        lesson: the hook of a teacher, if there is one.
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
        self.spending = Spending(plan)
        self.lesson: RemovableHandle | None = None
        self.places: Places | None = None  # where the weights stood at first
        self._dense = False  # the checkpoint being read is a dense model's
        self._stamp = object()  # another one whenever masks are written
        self._source: Source | None = None
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

    def extra_repr(self) -> str:  # noqa: D102
        kind = "frozen" if self.frozen else "learning"
        return f"{len(self.plan.sites)} masked, step {self.step}, {kind}"

    # -- copies ----------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Life:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        state = {**self.__dict__, "_source": None}
        twin.__dict__.update(copy.deepcopy(state, memo))
        weights = [copy.deepcopy(weight, memo) for weight in self._latent()]
        twin._source = Source(self, [(w, w._version) for w in weights], self._stamp)
        twin._let_follow(twin.follow)
        return twin

    def follow(self) -> None:
        """Takes over the masks of the model that this one is a copy of.

        That is for averages: copies that others have written, and that have not moved.
        """
        source = self._source
        if source is None or not source.written():
            return
        life = source.life
        life.follow()
        if source.stamp is life._stamp:
            return
        source.stamp = life._stamp
        self.step, self.frozen, self.history = life.step, life.frozen, life.history
        self.spending.macs, self.spending.kept = life.spending.macs, None
        take_over(self, life)
        for part in self.parts:
            part.reload(self._moment(self.step))

    def shared(self) -> bool:
        """Whether other ranks hold parts of the weights."""
        return any(part.shared() for part in self.parts)

    def stand_alone(self) -> None:
        """Follows nobody from now on."""
        self._source = None
        self._let_follow(None)

    def _let_follow(self, follow: Callable[[], None] | None) -> None:
        for part in self.parts:
            part.let_follow(follow)

    def _latent(self) -> list[Tensor]:
        return [weight for part in self.parts for weight in part.latent()]

    # -- steps -----------------------------------------------------------------------

    def begin(self, *, drawn: bool = True) -> None:
        """The masks of the step the model is at; not `drawn` by magnitudes alone."""
        found = [part.begin(self._moment(self.step), drawn) for part in self.parts]
        self.frozen = False
        self._write([Proposal(writes=writes) for writes in found])

    @torch.no_grad()
    def advance(self, optimizer: Optimizer | None = None) -> StepReport:
        """Counts one optimizer step and moves the masks as the schedule says.

        Either all of it happens or, where something raises, nothing.
        """
        self.stand_alone()
        self.settle()
        moment = self._moment(self.step + 1, optimizer)
        moment = replace(moment, spent=self.spending.next(self.parts[-1], self.frozen))
        found = [part.propose(moment) for part in self.parts]
        report, known = found[-1].later, None
        if report is None:
            report = known = described(self.plan, moment, found[-1])
        after = moment.number, moment.ends_frozen, longer(self.history, known)
        kept = None if known is None else known.densities
        self._write(found)
        self.step, self.frozen, self.history = after  # nothing is called from here on
        self.spending.macs, self.spending.kept = moment.spent, kept
        return report

    @torch.no_grad()
    def wait(self, optimizer: Optimizer | None) -> StepReport:
        """What there is to report where the optimizer has taken no step."""
        self.settle()
        moment = self._moment(self.step, optimizer)
        moment = replace(moment, phase=replace(moment.phase, update=False))
        return described(self.plan, moment, self.parts[-1].propose(moment))

    def settle(self) -> None:
        """Adds the last step to the curve, if a device has taken it."""
        for part in self.parts:
            last = part.settle()
            if last is not None:
                self.history = longer(self.history, last)
                self.spending.kept = last.densities

    def freeze(self) -> None:
        """Masks stand still from now on, as they are."""
        self._write([Proposal(writes=part.stand()) for part in self.parts])
        self.frozen = True

    @torch.no_grad()
    def _write(self, proposals: Sequence[Proposal]) -> None:
        for proposal in proposals:
            for write in proposal.writes:
                write()
        self._stamp, self.spending.kept = object(), None

    def _moment(self, number: int, optimizer: Optimizer | None = None) -> Moment:
        schedule = self.plan.policy.schedule()
        phase = schedule.at(number)
        if number > self.step and schedule.at(self.step).frozen:
            phase = replace(phase, update=False)  # frozen from the start
        return Moment(
            taken=self.step,
            number=number,
            phase=phase,
            following=schedule.at(number + 1),
            frozen=self.frozen,
            optimizer=optimizer,
            spent=self.spending.macs,
        )

    # -- answers ---------------------------------------------------------------------

    def masks(self) -> dict[str, Tensor]:
        """Hard masks by name of a parameter, or of a group of units."""
        return {n: m for part in self.parts for n, m in part.masks().items()}

    def report(self) -> Report:
        """What is kept where, at what cost; see `sparsefx.report`."""
        self.settle()
        return replace(
            reported(self.plan, self.parts),
            step=self.step,
            frozen=self.frozen,
            history=tuple(self.history),
            training=self.spending.report(self.step, self.parts[-1]),
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
        rows = zip(self.report().budgets.values(), allowed, strict=True)
        return all(own.kept <= limit * (1 + 1e-12) for own, limit in rows)

    # -- checkpoints -----------------------------------------------------------------

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        self.follow()
        destination[f"{prefix}step"] = torch.tensor(self.step)
        destination[f"{prefix}frozen"] = torch.tensor(self.frozen)
        destination[f"{prefix}names"] = as_tensor(self.names)
        destination[f"{prefix}history"] = as_curve(self.history)
        destination[f"{prefix}spending"] = self.spending.as_tensor()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """A checkpoint without masks is a dense one: masks are found anew."""
        self.stand_alone()
        self._dense = of_dense(state_dict, prefix)
        if self._dense:
            return
        missing: list[str] = rest[2]
        own = ("step", "frozen", "names", "history", "spending")
        wanted = [f"{prefix}{name}" for name in own]
        missing += [key for key in wanted if key not in state_dict]
        step, frozen, names, curve, spent = (state_dict.pop(k, None) for k in wanted)
        if names is not None:
            check_names(names, self.names)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if step is None or frozen is None or curve is None or spent is None:
            return
        self.step, self.frozen = int(step), bool(frozen)
        self.spending.macs = float(spent)
        self.history = from_curve(curve)


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
        life.places = Places(root, life._latent())
    life.places.check(root)
    if verb != "step":
        life.follow()
    if life.finalized and verb in ("step", "finalize"):
        raise MaskError(
            f"{verb} after finalize: this model has been finalized and its masks are "
            "final; train the model that finalize returned, or transform again"
        )
    return life


def _loaded(life: Life, _: Any) -> None:
    """Runs when the parts below have been loaded too."""
    life.resume(anew=life._dense)
    life._stamp = object()
