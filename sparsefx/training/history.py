"""The curve of the first budget: a point a step, thinned out where there are many."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsefx.reports.report_rows import HistoryPoint
from sparsefx.training.step_report import StepReport

_POINTS = 500


def longer(
    history: Sequence[HistoryPoint], report: StepReport | None
) -> list[HistoryPoint]:
    """The curve with a step more, if there is one."""
    found = list(history)
    if report is not None:
        costs = report.budget, report.soft_cost, report.hard_cost
        found.append(HistoryPoint(report.step, *costs))
    if len(found) > _POINTS:
        del found[1:-1:2]
    return found


def as_curve(history: Sequence[HistoryPoint]) -> Tensor:
    """The curve as a tensor of one shape, which `from_curve` reads."""
    curve = torch.full((_POINTS, 4), -1.0, dtype=torch.float64)
    points = [[p.step, p.limit, p.soft, p.hard] for p in history]
    curve[: len(points)] = torch.tensor(points, dtype=curve.dtype).view(-1, 4)
    return curve


def from_curve(curve: Tensor) -> list[HistoryPoint]:
    """What `as_curve` made a tensor of.

    Example:
        >>> from_curve(as_curve([HistoryPoint(1, 4.0, 3.5, 3.0)]))
        [HistoryPoint(step=1, limit=4.0, soft=3.5, hard=3.0)]
    """
    rows = [row for row in curve.tolist() if row[0] >= 0]
    return [HistoryPoint(int(number), *costs) for number, *costs in rows]
