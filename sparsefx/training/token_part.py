"""The part of tokens: selections cool at each step, and reports name them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from sparsefx.masking.site import Site
from sparsefx.passes.tokens.token_scorer import TokenScorer
from sparsefx.reports.report import Cost, LayerReport
from sparsefx.training.part import Moment, Proposal, Write
from sparsefx.training.plan import Plan
from sparsefx.training.step_report import StepReport


@dataclass(slots=True, eq=False)
class TokenPart:
    """The selections of tokens in a model.

    Attributes:
        plan: of the model; it counts no selection, but what is left of the model.
        scorers: the selections, by path.
        name: they live in the model itself, so nothing is held under it.
    """

    plan: Plan
    scorers: Sequence[tuple[str, TokenScorer]]
    name: str = "tokens"

    @property
    def state(self) -> nn.Module | None:
        """See `Part.state`."""
        return None

    def begin(self, moment: Moment, drawn: bool) -> Sequence[Write]:
        """See `Part.begin`."""
        return self._cooled(moment.number)

    def propose(self, moment: Moment) -> Proposal:
        """See `Part.propose`."""
        return Proposal(writes=self._cooled(moment.number))

    def stand(self) -> Sequence[Write]:
        """See `Part.stand`."""
        return []

    def settle(self) -> StepReport | None:
        """See `Part.settle`."""
        return None

    def reload(self, moment: Moment) -> None:
        """See `Part.reload`: temperatures are the model's buffers."""

    def latent(self) -> list[Tensor]:
        """See `Part.latent`."""
        return []

    def let_follow(self, follow: Callable[[], None] | None) -> None:
        """See `Part.let_follow`."""

    def masks(self) -> dict[str, Tensor]:
        """See `Part.masks`: each input has tokens of its own."""
        return {}

    def counts(self) -> tuple[int, ...]:
        """See `Part.counts`."""
        return ()

    def sites(self) -> tuple[Site, ...]:
        """See `Part.sites`."""
        return ()

    def rows(self, costs: Sequence[str]) -> tuple[LayerReport, ...]:
        """A row for each selection: the whole model's MACs with it, and without.

        Totals do not add them: they speak of the model that is left.
        """
        rows = []
        for name, scorer in self.scorers:
            choice = scorer.choice
            if choice is not None:
                spent = dict.fromkeys(costs, Cost(0, 0))
                spent["macs"] = Cost(choice.macs, choice.without)
                label, share = (
                    f"{name} before {choice.before}",
                    choice.kept / choice.tokens,
                )
                size = (choice.tokens,)
                row = LayerReport(label, "select_tokens", size, "token", share, spent)
                rows.append(row)
        return tuple(rows)

    def bake(self) -> None:
        """See `Part.bake`: the scorers stay."""

    def _cooled(self, step: int) -> list[Write]:
        writes: list[Write] = []
        for _, scorer in self.scorers:
            progress = 1.0 if scorer.steps is None else step / scorer.steps
            share = min(max(progress, 0.0), 1.0)
            first, last = scorer.ends
            writes.append(partial(scorer.tau.fill_, first + (last - first) * share))
        return writes


def token_part(root: nn.Module, plan: Plan) -> TokenPart | None:
    """The selections in a model, if there are any."""
    found = [(n, m) for n, m in root.named_modules() if isinstance(m, TokenScorer)]
    return TokenPart(plan, found) if found else None
