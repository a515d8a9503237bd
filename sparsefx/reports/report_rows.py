"""The values that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparsefx.reports.text_table import percent, shape_text


@dataclass(frozen=True, slots=True)
class Cost:
    """What a layer costs with its mask, and would cost without."""

    kept: float
    dense: float


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One masked weight.

    Attributes:
        name: the parameter's name.
        op: what consumes it.
        shape: its shape.
        granularity: the unit that is kept or dropped.
        density: kept fraction, in [0, 1].
        costs: its cost by cost name, in MACs, parameters, bytes or milliseconds.
        execution: how it trains, under its mask or on kept weights alone.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    granularity: str
    density: float
    costs: Mapping[str, Cost]
    execution: Literal["masked", "sparse"] = "masked"

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """Texts of all but the costs, as a table's row begins."""
        shape, density = shape_text(self.shape), percent(self.density)
        return self.name, self.op, shape, self.granularity, density


@dataclass(frozen=True, slots=True)
class Coverage:
    """Whether a parameter is masked, and why not.

    Attributes:
        parameter: its name.
        module: path of the module that owns it.
        masked: by its graph, by the module's property, or not.
        reason: why it is not masked; "" where it is.
    """

    parameter: str
    module: str
    masked: Literal["graph", "property"] | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """One budget: the cost it allows, the cost of the hard masks, and the verdict."""

    limit: float
    kept: float
    met: bool


@dataclass(frozen=True, slots=True)
class Total:
    """One cost over the model.

    Attributes:
        kept: of the maskable part, with hard masks.
        dense: of the maskable part, without masks.
        fixed: of everything else.
        original: of the maskable part of the model as it was given.
    """

    kept: float
    dense: float
    fixed: float
    original: float


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """The first budget's cost at one step: allowed, of soft and of hard masks."""

    step: int
    limit: float
    soft: float
    hard: float


@dataclass(frozen=True, slots=True)
class Training:
    """What training has cost and tried so far.

    Attributes:
        steps: optimizer steps taken.
        macs: what they multiplied for the example inputs, see
            `sparsefx.training.training_cost`; None where MACs are not known.
        dense: what the model as it was given would have multiplied in as many.
        explored: share of the maskable weights that were kept at some step; None for
            learners that store no masks of weights.
    """

    steps: int
    macs: int | None
    dense: int | None
    explored: float | None
