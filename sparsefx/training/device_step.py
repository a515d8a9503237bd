"""A step of the masks on a GPU: everything is enqueued, nothing is waited for.

`sparsefx.training.soft_weights` asks here first. The answer is a report whose
numbers are fetched when they are read. What the host must know of a step (weights that
are not finite, layers that come near their least density) it learns at the next one,
from numbers that have arrived meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.kernels import kernels_for
from sparsefx.kernels.bits import pack
from sparsefx.kernels.mask_rule import hard_mask, magnitude
from sparsefx.kernels.tensor_layout import readable
from sparsefx.learners import learner_of
from sparsefx.masking.sparse_state import SparseState
from sparsefx.policies.magnitude_worths import examples, shares
from sparsefx.policies.policy_function import by_weights
from sparsefx.policies.unit_bounds import bounds
from sparsefx.training.part import Moment
from sparsefx.training.plan import Plan
from sparsefx.training.step_report import Asked, LaterReport, StepReport, reported

if TYPE_CHECKING:
    from sparsefx.solver.device_solver import DeviceSolver, Seen

# Layers with a least density are left to the device while they keep this many times
# what they must: a step of training does not halve a layer.
_MARGIN = 2


class Numbers:
    """What a step did, on its way to the host."""

    def __init__(self, summary: Tensor) -> None:  # noqa: D107
        self._event: torch.cuda.Event | None = None
        self._summary = summary
        self._seen: Seen | None = None
        if summary.is_cuda:  # into pinned memory
            self._summary = summary.to("cpu", non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> Seen:
        """The numbers; waits for them if they are not there yet."""
        from sparsefx.solver.device_solver import Seen

        if self._seen is None:
            if self._event is not None:
                self._event.synchronize()
            self._seen = Seen.of(self._summary)
        return self._seen


class DeviceStep:
    """What the device path remembers between steps; a copy starts afresh.

    Attributes:
        step: optimizer steps taken, as the host counts them; None where it must ask.
        last: numbers of the last step, until they have been looked at.
    """

    def __init__(self) -> None:  # noqa: D107
        self.step: int | None = None
        self.last: tuple[Numbers, Plan, Asked] | None = None
        self._solver: DeviceSolver | None = None
        self._kept: tuple[Sequence[float], Sequence[float]] = ((), ())

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceStep:
        return DeviceStep()

    def __reduce__(self) -> tuple[type[DeviceStep], tuple[()]]:
        return DeviceStep, ()

    @classmethod
    def after(
        cls, known: tuple[int, Sequence[float], Sequence[float]] | None
    ) -> DeviceStep:
        """After a step that the host has taken: what was known of the masks is old.

        Args:
            known: the number of the step, what each site keeps, and the sums of the
                soft masks of that; None where masks were not solved for.
        """
        made = cls()
        if known is not None:
            made.step, made._kept = known[0], known[1:]
        return made

    def settle(self, names: Sequence[str]) -> StepReport | None:
        """The report of the last step, once; None where it has been asked for.

        Raises:
            MaskError: a weight had NaN or infinite entries; the masks stayed.
        """
        if self.last is None:
            return None
        numbers, plan, asked = self.last
        self.last = None
        seen = numbers.read()
        if seen.bad >= 0:
            raise MaskError(
                f"weight {names[seen.bad]!r} has NaN or infinite entries; masks rank "
                "magnitudes and need finite ones: restore a checkpoint, or lower the "
                "learning rate"
            )
        self._kept = seen.counts, seen.bought
        return reported(plan, asked, seen)

    def _slack(self, limits: Sequence[tuple[int, int, int]]) -> bool:
        """Whether all layers keep well above what they must."""
        rows = zip(limits, *self._kept, strict=True)
        return all(
            low in (0, size) or _MARGIN * low <= min(count, kept)
            for (low, _, size), count, kept in rows
        )

    def advance(
        self, state: SparseState, plan: Plan, moment: Moment
    ) -> LaterReport | None:
        """Enqueues a step; None where the host must take it.

        That is so for the first step, for frozen masks and on the way there, between
        updates, for several budgets, for layers with a greatest density or near their
        least, for policies that fix densities, for weights in groups, and for those
        not `readable` together.
        """
        if self.step is None:
            return None
        weights = state.weights()
        maker = getattr(kernels_for(weights), "__name__", "")
        if maker != "sparsefx.kernels.triton_backend":
            return None
        phase = moment.phase
        limits = [(*bounds(site), site.numel) for site in plan.sites]
        if (
            phase.frozen
            or not phase.update
            or learner_of(plan.policy.learner).stored
            or plan.policy.inclusive
            or state.units is not None
            or state.shared is not None
            or state.candidates is not None
            or not by_weights(plan.function)
            or plan.several
            or any(high < size for _, high, size in limits)
            or (any(low for low, _, _ in limits) and not self._slack(limits))
            or any(site.groups is not None for site in plan.sites)
            or not readable(weights)
        ):
            return None
        (budget,) = plan.allowed(phase.budget_progress)
        reserved = plan.reserved(plan.targets[0])
        solver = self._solver
        if solver is None or not solver.fits(weights):
            solver = self._solver = _solver(plan, weights)
        if solver.spent >= budget - reserved:
            return None
        into: Mapping[str, Tensor] = state.held()
        solver.solve(weights, budget - reserved, phase.beta, into)
        numbers = Numbers(solver.observe(weights, into))
        rows = zip(state.bits(), weights, into["threshold"], into["last"], strict=True)
        for bits, weight, threshold, last in rows:
            bits.copy_(pack(hard_mask(magnitude(weight), threshold, last)))
        self.step = moment.number
        asked = Asked(self.step, budget, phase.beta, moment.training_cost)
        self.last = (numbers, plan, asked)
        return LaterReport(lambda: reported(plan, asked, numbers.read()))


def _solver(plan: Plan, weights: Sequence[Tensor]) -> DeviceSolver:
    from sparsefx.solver.device_solver import DeviceSolver

    prices = plan.prices()
    raw = [1.0] * len(plan.sites)
    if plan.policy.normalize == "layer":
        raw = shares(plan.sites, {t.cost: t.limit for t in plan.targets})
    elif plan.policy.normalize == "none":
        raw = [examples(plan.sites, plan.targets[0].cost)] * len(plan.sites)
    return DeviceSolver(
        weights,
        prices,
        raw,
        plan.policy.normalize,
        [
            price > 0 and bounds(site)[0] < site.numel
            for price, site in zip(prices, plan.sites, strict=True)
        ],
    )
