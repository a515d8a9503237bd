"""Where the time of a lowered model goes, layer by layer, and what would lower it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparsefx.lowering.layer_forms import SPARSEST
from sparsefx.lowering.layer_trial import COMPRESSED, DENSE
from sparsefx.reports.text_table import percent

if TYPE_CHECKING:
    from sparsefx.lowering.lowering_report import LayerChoice, Lowering

BETWEEN = "between the layers"
_SHOWN = 3  # layers that have a number of their own


def shares(report: Lowering) -> dict[str, float]:
    """What part of the model's time each layer takes, the largest first.

    Layers were timed alone, so that the parts are estimates; what no layer accounts for
    is `BETWEEN`, which is not known where the whole was not timed.
    """
    whole = report.times.get("lowered", report.times.get(DENSE, 0.0))
    layers = {row.name: row.times.get(row.key, 0.0) for row in report.layers}
    total = max(whole, sum(layers.values()))
    if not total:
        return {}
    parts = {name: ms / total for name, ms in layers.items()}
    found = sorted(parts.items(), key=lambda part: -part[1])
    return {**dict(found), BETWEEN: 1 - sum(parts.values())}


def where(report: Lowering) -> str:
    """The largest parts in a line; empty where the whole was not timed.

    Example:
        >>> from sparsefx.lowering.lowering_report import LayerChoice, Lowering
        >>> row = LayerChoice("fc", "linear", (8, 8), 0.1, "csr", 2.0, {"csr": 3.0}, {})
        >>> where(Lowering((row,), "auto", "cpu", {"lowered": 4.0}, "", False))
        'time: fc 75 %, between the layers 25 %'
    """
    parts = shares(report) if report.times else {}
    between = parts.pop(BETWEEN, 0.0)
    told = [(name, part) for name, part in parts.items() if part > 0]
    shown, left = told[:_SHOWN], told[_SHOWN:]
    if left:
        shown += [(f"{len(left)} more layers", sum(part for _, part in left))]
    shown += [(BETWEEN, between)]
    listed = ", ".join(f"{name} {percent(part, 0)}" for name, part in shown)
    return f"time: {listed}" if told else ""


def advice(report: Lowering) -> str:
    """What would make the model faster still, by where its time goes.

    Example:
        >>> from sparsefx.lowering.lowering_report import LayerChoice, Lowering
        >>> times = {"dense": 3.0}
        >>> row = LayerChoice("fc", "linear", (8, 8), 0.8, "dense", 1.0, times, {})
        >>> print(advice(Lowering((row,), "auto", "cpu", {}, "", False)))
        to gain more: fc keeps 80 % of its weights, products gain from 60 % down; try
        layers={'fc': {'max_density': 0.3}} or a budget in latency_ms in training
    """
    parts = shares(report)
    rows = {row.name: row for row in report.layers}
    if parts.get(BETWEEN, 0.0) > 0.5:
        return f"to gain more: {_between(report)}"
    slowest = next((rows[n] for n in parts if n in rows and _helped(rows[n])), None)
    return "" if slowest is None else f"to gain more: {_layer(slowest, report)}"


def _between(report: Lowering) -> str:
    if not report.compiled:
        return (
            "most of the time is norms, activations and copies; compile=True fuses them"
        )
    return (
        "most of the time is norms, activations and attention, which zeros in weights "
        'leave as they are; fewer units (policy "units") or tokens make these less too'
    )


def _too_full(row: LayerChoice) -> bool:
    return row.chosen == DENSE and SPARSEST < row.density


def _helped(row: LayerChoice) -> bool:
    return _too_full(row) or row.chosen in COMPRESSED


def _layer(row: LayerChoice, report: Lowering) -> str:
    if _too_full(row):
        module = row.name.removesuffix(".weight")
        return (
            f"{row.name} keeps {percent(row.density, 0)} of its weights, products "
            f"gain from {percent(SPARSEST, 0)} down; try "
            f"layers={{{module!r}: {{'max_density': 0.3}}}} or a budget in latency_ms "
            "in training"
        )
    lower = f"{row.name} takes most of it: a lower density there"
    if report.precision == "exact":
        lower += ", precision='int8'"
    return f"{lower}, or granularity='block:4x1', whose rows share their zeros"


def lines(report: Lowering) -> Sequence[str]:
    """Both, as a report ends with them."""
    return [line for line in (where(report), advice(report)) if line]
