"""The part of tokens: selections cool at each step, and reports name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from sparsefx.passes.tokens.token_scorer import TokenScorer
from sparsefx.reports.report_rows import Cost, LayerReport
from sparsefx.training.part import Moment, Part, Proposal, Write
from sparsefx.training.plan import Plan


@dataclass(slots=True, eq=False)
class TokenPart(Part):
    """The selections of tokens in a model.

    Attributes:
        plan: of the model; it counts no selection, but what is left of the model.
        scorers: the selections, by path.
        name: of the part.
        state: None: scorers live in the model, and their temperatures are its buffers.
    """

    plan: Plan
    scorers: Sequence[tuple[str, TokenScorer]]
    name: str = "tokens"
    state: None = None

    def begin(self, moment: Moment, drawn: bool) -> Sequence[Write]:
        """See `Part.begin`."""
        return self._cooled(moment.number)

    def propose(self, moment: Moment) -> Proposal:
        """See `Part.propose`."""
        return Proposal(writes=self._cooled(moment.number))

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
                label = f"{name} {choice.where}"
                share, size = choice.kept / choice.tokens, (choice.tokens,)
                row = LayerReport(label, "select_tokens", size, "token", share, spent)
                rows.append(row)
        return tuple(rows)

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
