"""What training kept: the values of a report, as a table, JSON, SVG and HTML."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsefx.errors import SparsefxError
from sparsefx.reports.report_html import report_cell, report_html, report_svg
from sparsefx.reports.report_rows import (
    BudgetReport,
    Cost,
    Coverage,
    HistoryPoint,
    LayerReport,
    Total,
    Training,
)
from sparsefx.reports.text_table import human, percent, share, text_table


@dataclass(frozen=True, slots=True)
class Report:
    """What is kept where, at what cost; ``print`` shows it as a table.

    Attributes:
        policy: name of the policy.
        step: optimizer steps taken.
        frozen: masks no longer move.
        layers: one entry a masked weight, in the model's order.
        totals: by cost name.
        budgets: by cost name.
        coverage: one entry a parameter.
        history: the way to the first budget, oldest first.
        training: what it has cost and tried.

    Example:
        >>> from sparsefx.reports.report_rows import (
        ...     BudgetReport, Cost, LayerReport, Total)
        >>> cost = {"macs": Cost(6, 60)}
        >>> layer = LayerReport("fc", "linear", (6, 10), "unstructured", 0.1, cost)
        >>> total = {"macs": Total(6, 60, 0, 60)}
        >>> budget = {"macs": BudgetReport(6, 6, True)}
        >>> print(Report("uniform", 9, False, (layer,), total, budget, ()))
        policy uniform, step 9
        <BLANKLINE>
        layer  op      shape  granularity   density  macs kept  dense   share
        -----  ------  -----  ------------  -------  ---------  -----  ------
        fc     linear  6x10   unstructured   10.0 %          6     60  10.0 %
        total                                                6     60  10.0 %
        <BLANKLINE>
        macs: 6 of 6 allowed (10.000 % of dense): met
    """

    policy: str
    step: int
    frozen: bool
    layers: tuple[LayerReport, ...]
    totals: Mapping[str, Total]
    budgets: Mapping[str, BudgetReport]
    coverage: tuple[Coverage, ...]
    history: tuple[HistoryPoint, ...] = ()
    training: Training | None = None

    @property
    def cost_names(self) -> tuple[str, ...]:
        """The costs worth a column: those with a budget, else the first."""
        return tuple(self.budgets) or tuple(self.totals)[:1]

    def to_dict(self) -> dict[str, Any]:
        """The report as dicts, lists, texts and plain numbers.

        Example:
            >>> report = Report("uniform", 9, False, (), {}, {}, ())
            >>> report.to_dict()["step"]
            9
        """
        # asdict would copy a read-only mapping, which cannot be copied.
        layers = [
            {
                "name": layer.name,
                "op": layer.op,
                "shape": [int(size) for size in layer.shape],
                "granularity": layer.granularity,
                "density": float(layer.density),
                "costs": {name: _numbers(cost) for name, cost in layer.costs.items()},
                "execution": layer.execution,
            }
            for layer in self.layers
        ]
        return {
            "policy": self.policy,
            "step": int(self.step),
            "frozen": bool(self.frozen),
            "layers": layers,
            "totals": {name: _numbers(total) for name, total in self.totals.items()},
            "budgets": {name: _numbers(limit) for name, limit in self.budgets.items()},
            "coverage": [asdict(row) for row in self.coverage],
            "history": [_numbers(point) for point in self.history],
            "training": None if self.training is None else asdict(self.training),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` wrote.

        Raises:
            SparsefxError: something `to_dict` writes is missing or unknown.

        Example:
            >>> report = Report("uniform", 9, False, (), {}, {}, ())
            >>> Report.from_dict(report.to_dict()) == report
            True
        """
        try:
            return cls(
                policy=data["policy"],
                step=data["step"],
                frozen=data["frozen"],
                layers=tuple(_layer(row) for row in data["layers"]),
                totals={k: Total(**v) for k, v in data["totals"].items()},
                budgets={k: BudgetReport(**v) for k, v in data["budgets"].items()},
                coverage=tuple(Coverage(**row) for row in data["coverage"]),
                history=tuple(HistoryPoint(**row) for row in data["history"]),
                training=data["training"] and Training(**data["training"]),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise SparsefxError(
                f"this is not a report ({type(error).__name__}: {error}); write one "
                "with sparsefx.report(module).to_json(path)"
            ) from None

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Writes `to_dict` as JSON, which ``sparsefx report PATH`` prints."""
        text = json.dumps(self.to_dict(), indent=1)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes one self-contained page: pictures, tables, coverage."""
        Path(path).write_text(report_html(self), encoding="utf-8")

    def to_svg(self, path: str | os.PathLike[str]) -> None:
        """Writes the page's picture: density and cost bars, and the budget curve."""
        Path(path).write_text(report_svg(self), encoding="utf-8")

    def _repr_html_(self) -> str:
        return report_cell(self, list(self.budget_lines()))

    def __str__(self) -> str:
        header = ["layer", "op", "shape", "granularity", "density"]
        for name in self.cost_names:
            header += [f"{name} kept", "dense", "share"]
        rows = [
            [*layer.cells, *_cost_cells(layer.costs, self.cost_names)]
            for layer in self.layers
        ]
        rows.append(["total", *[""] * 4, *_cost_cells(self.totals, self.cost_names)])
        table = text_table(header, rows, right=range(4, len(header)))
        state = f"policy {self.policy}, step {self.step}" + ", frozen" * self.frozen
        lines = [*self.budget_lines(), *self._training_lines()]
        lines += self._execution_lines()
        blocks = [state, table, "\n".join(lines)]
        if self.coverage:
            blocks.append("\n".join(self._coverage_lines()))
        return "\n\n".join(block for block in blocks if block)

    def budget_lines(self) -> Iterator[str]:
        """One sentence a budget: allowed, kept, met or not; and what is fixed."""
        for name, budget in self.budgets.items():
            verdict = "met" if budget.met else "NOT met"
            total = self.totals[name]
            whole = budget.kept > total.kept * (1 + 1e-9)  # with what is fixed
            dense = total.original + total.fixed if whole else total.dense
            of_dense = percent(share(budget.kept, dense), digits=3)
            yield (
                f"{name}: {human(budget.kept)} of {human(budget.limit)} allowed "
                f"({of_dense} of dense): {verdict}"
            )
        for name in self.cost_names:
            if self.totals[name].fixed:
                fixed = human(self.totals[name].fixed)
                yield f"{name}: {fixed} more are fixed, no mask can drop them"

    def _training_lines(self) -> Iterator[str]:
        training = self.training
        if training is None or not training.steps:
            return
        parts = []
        if training.macs is not None and training.dense:
            parts.append(f"{percent(training.macs / training.dense)} of dense MACs")
        if training.explored is not None:
            parts.append(f"{percent(training.explored)} of weights kept at some step")
        if parts:
            yield f"training so far: {', '.join(parts)}"

    def _execution_lines(self) -> Iterator[str]:
        sparse = [layer.name for layer in self.layers if layer.execution == "sparse"]
        if sparse:
            first, more = ", ".join(sparse[:3]), ", ..." * (len(sparse) > 3)
            rest = "; others are not faster so, or cannot"
            yield (
                f"{len(sparse)} of {len(self.layers)} layers train on kept weights "
                f"alone ({first}{more}){rest * (len(sparse) < len(self.layers))}"
            )

    def _coverage_lines(self) -> Iterator[str]:
        bare: dict[str, list[str]] = defaultdict(list)
        for row in self.coverage:
            if row.masked is None:
                bare[row.reason].append(row.parameter)
        masked = len(self.coverage) - sum(map(len, bare.values()))
        rest = "; not masked:" if bare else ""
        yield f"{masked} of {len(self.coverage)} parameters masked{rest}"
        for reason, names in bare.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield f"  {', '.join(names[:3])}{more}: {reason}"


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else float(value)


def _numbers(value: Cost | Total | BudgetReport | HistoryPoint) -> dict[str, Any]:
    return {
        key: bool(number) if isinstance(number, bool) else _number(number)
        for key, number in asdict(value).items()
    }


def _layer(data: Mapping[str, Any]) -> LayerReport:
    costs = {name: Cost(**cost) for name, cost in data["costs"].items()}
    return LayerReport(**{**data, "shape": tuple(data["shape"]), "costs": costs})


def _cost_cells(
    costs: Mapping[str, Cost] | Mapping[str, Total], names: tuple[str, ...]
) -> Iterator[str]:
    for name in names:
        cost = costs[name]
        yield from (human(cost.kept), human(cost.dense))
        yield percent(share(cost.kept, cost.dense))
