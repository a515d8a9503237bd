"""What `sparsefx.prune` returns: a plain model, its masks, and an honest report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from sparsefx.pruning.fit import Fitted
from sparsefx.reports.report import Report
from sparsefx.reports.text_table import percent, text_table

_TELLING = 0.5  # bounds below it are not worth a line


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What is kept where, and what that does; ``print`` shows it as a table.

    Attributes:
        costs: densities, costs and budgets, as `sparsefx.report` gives them.
        fitted: by name of a weight, how it was pruned, its error and its seconds.
        change: of the outputs on some of the calibration batches: summed square of the
            difference over that of the dense outputs; where a loss was given, its mean.
        held_out: the same on batches that nothing was fitted on; None without any.
        seconds: all of it, by the clock.
        by_loss: a loss was given.
        units: by group of heads, neurons or channels, how many stay, and of how many.
    """

    costs: Report
    fitted: Mapping[str, Fitted]
    change: float
    held_out: float | None
    seconds: float
    by_loss: bool = False
    units: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists, texts and numbers."""
        return {
            **self.costs.to_dict(),
            "fitted": {name: asdict(one) for name, one in self.fitted.items()},
            "change": self.change,
            "held_out": self.held_out,
            "units": {name: list(pair) for name, pair in self.units.items()},
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        header = ("layer", "op", "shape", "granularity", "density", "error", "seconds")
        rows = [
            (*layer.cells, *_fit_cells(self.fitted.get(layer.name)))
            for layer in self.costs.layers
        ]
        table = text_table(header, rows, right=range(4, 7))
        return f"{table}\n\n" + "\n".join((*self.costs.budget_lines(), *self._lines()))

    def _lines(self) -> Iterator[str]:
        for name, (kept, size) in self.units.items():
            yield f"{name}: {kept} of {size} stay"
        yield f"{self._said(self.change)} on the calibration batches"
        if self.held_out is None:
            yield "no batch was held out: nobody knows what they do on others"
        else:
            yield f"{self._said(self.held_out)} on batches that were held out"
        yield from self._certified()
        yield f"{self.seconds:.1f} seconds"

    def _certified(self) -> Iterator[str]:
        found = {name: one.least for name, one in self.fitted.items()}
        known = {name: x for name, x in found.items() if x is not None}
        for name, least in known.items():
            if least >= _TELLING:
                yield (
                    f"{name}: no weights of as many entries have less than "
                    f"{percent(least, 1)} of its error"
                )
        silent = [name for name, least in known.items() if least < _TELLING]
        if silent:
            more = ", ..." * (len(silent) > 3)
            yield (
                f"the bound says nothing of {len(silent)} of {len(known)} layers "
                f"({', '.join(silent[:3])}{more}): their inputs are too much alike"
            )

    def _said(self, change: float) -> str:
        if self.by_loss:
            return f"the loss is {change:.4g}"
        return f"outputs change by {percent(change, 2)}"


@dataclass(frozen=True, slots=True, eq=False)
class Pruned:
    """A pruned model; see `sparsefx.prune`.

    Attributes:
        model: of the given model's class and keys; dropped weights are exactly zero.
        masks: by parameter name, bool, True is kept.
        units: by group of heads, neurons or channels, bool, where units were dropped.
        report: what is kept where, and what that does.

    Example:
        >>> import sparsefx, torch
        >>> pruned = sparsefx.prune(nn.Linear(8, 4), [torch.randn(32, 8)], budget=0.5)
        >>> int(pruned.masks["weight"].sum()), int(pruned.model.weight.count_nonzero())
        (16, 16)
    """

    model: nn.Module
    masks: Mapping[str, Tensor]
    units: Mapping[str, Tensor]
    report: PruneReport
    _again: Callable[[Any], Pruned] = field(repr=False)

    def at(self, budget: Any) -> Pruned:
        """The same model pruned to another budget, from the same batches.

        Args:
            budget: as for `sparsefx.prune`.
        """
        return self._again(budget)


def _fit_cells(fitted: Fitted | None) -> tuple[str, str]:
    if fitted is None:
        return "-", "-"
    error = "-" if fitted.error is None else percent(fitted.error, 2)
    return error, f"{fitted.seconds:.2f}"
