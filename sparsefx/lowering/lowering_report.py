"""What the lowering did: a row for every layer, and the model as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsefx.lowering.layer_trial import DENSE, EXACT, Trial
from sparsefx.lowering.remaining_time import lines
from sparsefx.reports.html_page import html_line, html_table
from sparsefx.reports.text_table import human, percent, shape_text, text_table


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """One layer.

    Attributes:
        name: the weight's name.
        op: ``linear`` or ``conv2d``.
        shape: the weight's shape in the model that was given.
        density: share of non-zero weights, in [0, 1].
        chosen: ``dense``, ``removal``, ``csr``, ``bsr`` or ``semi_structured``.
        gain: time of the dense layer over that of the chosen form; 1 if not timed.
        times: milliseconds of each form that was timed; where a form is not exact, its
            precision stands behind its name, as in ``csr int8``.
        lost: why each other form was not chosen.
        precision: ``exact``, ``bf16`` or ``int8``.
        change: of this layer's own output, as a share of the largest one.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    density: float
    chosen: str
    gain: float
    times: Mapping[str, float]
    lost: Mapping[str, str]
    precision: str = EXACT
    change: float = 0.0

    @property
    def key(self) -> str:
        """What was chosen, as ``times`` and ``lost`` name it."""
        exact = self.precision == EXACT
        return self.chosen if exact else f"{self.chosen} {self.precision}"


@dataclass(frozen=True, slots=True)
class Lowering:
    """The report of `sparsefx.lower`; ``str()`` is a table.

    Attributes:
        layers: what was chosen for each layer.
        target: what was asked for.
        device: where it was timed, and with how many threads.
        times: milliseconds of the whole ``dense`` and ``lowered`` model.
        verdict: what runs and why.
        compiled: whether ``torch.compile`` runs it.
        precision: what was asked for.
        change: of the model's output on the calibration calls, as a share of the
            largest one; 0 where it was not measured, as in ``exact``.
        tolerance: what the change may be.
    """

    layers: tuple[LayerChoice, ...]
    target: str
    device: str
    times: Mapping[str, float]
    verdict: str
    compiled: bool
    precision: str = EXACT
    change: float = 0.0
    tolerance: float = 0.0

    @property
    def gain(self) -> float:
        """Time of the dense model over that of the lowered one; 1 if not timed."""
        if "lowered" not in self.times:
            return 1.0
        return self.times[DENSE] / self.times["lowered"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values: lists, dicts, numbers and texts."""
        rows = [
            {
                "name": row.name,
                "op": row.op,
                "shape": list(row.shape),
                "density": row.density,
                "chosen": row.chosen,
                "gain": row.gain,
                "times": dict(row.times),
                "lost": dict(row.lost),
                "precision": row.precision,
                "change": row.change,
            }
            for row in self.layers
        ]
        return {
            "target": self.target,
            "device": self.device,
            "layers": rows,
            "times": dict(self.times),
            "gain": self.gain,
            "verdict": self.verdict,
            "compiled": self.compiled,
            "precision": self.precision,
            "change": self.change,
            "tolerance": self.tolerance,
        }

    def __str__(self) -> str:
        header, rows, right = self._table()
        table = text_table(header, rows, right=right) if rows else "no layers"
        return "\n".join([table, "", *self._verdicts()])

    def _repr_html_(self) -> str:
        """For a notebook's cell."""
        header, rows, right = self._table()
        return "".join(map(html_line, self._verdicts())) + html_table(
            header, rows, right
        )

    def _table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]], tuple[int, ...]]:
        """A row for each layer, and which columns are aligned on the right."""
        header: tuple[str, ...] = ("layer", "shape", "density", "chosen")
        rows: list[tuple[str, ...]] = [
            (row.name, shape_text(row.shape), percent(row.density), row.chosen)
            for row in self.layers
        ]
        right: tuple[int, ...] = (2, 4)
        if self.precision != EXACT:
            header, right = (*header, "precision", "change"), (2, 5, 6)
            rows = [
                (*cells, row.precision, f"{row.change:.1g}")
                for cells, row in zip(rows, self.layers, strict=True)
            ]
        gains = (f"{r.gain:.2f}x" if len(r.times) > 1 else "-" for r in self.layers)
        reasons = (_why(row.lost) for row in self.layers)
        rows = [
            (*cells, *more) for cells, *more in zip(rows, gains, reasons, strict=True)
        ]
        return (*header, "gain", "the others"), rows, right

    def _verdicts(self) -> list[str]:
        told = [f"{self.verdict} ({self.device})"]
        if self.precision != EXACT:
            told += [
                f"{self.precision}: outputs change by {self.change:.2g} of the "
                f"largest, {self.tolerance:g} was allowed"
            ]
        timed = ", ".join(f"{name} {human(ms)} ms" for name, ms in self.times.items())
        return [*told, *([timed] if timed else []), *lines(self)]


def choice(trial: Trial, before: Mapping[str, tuple[int, ...]]) -> LayerChoice:
    """The row of a trial; ``before`` has shapes of weights that were cut.

    Example:
        >>> row = choice(Trial("a", "linear", (2, 4), 0.5, "dense"), {"a": (8, 4)})
        >>> row.chosen, row.shape
        ('removal', (8, 4))
    """
    cut = trial.name in before and trial.key == DENSE
    if cut:
        trial = dataclasses.replace(trial, chosen="removal")
    return LayerChoice(
        trial.name,
        trial.op,
        before.get(trial.name, trial.shape),
        trial.density,
        trial.chosen,
        trial.gain,
        trial.times,
        {k: v for k, v in trial.lost.items() if not (cut and k == "removal")},
        trial.precision,
        trial.change,
    )


def _why(lost: Mapping[str, str]) -> str:
    """One reason for all, where it is the same."""
    reasons = set(lost.values())
    if len(lost) > 1 and len(reasons) == 1:
        return reasons.pop()
    return "; ".join(f"{form}: {why}" for form, why in lost.items())
