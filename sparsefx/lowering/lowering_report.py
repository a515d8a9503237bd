"""What the lowering did: a row for every layer, and the model as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsefx.lowering.layer_trial import DENSE, Trial
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
        times: milliseconds of each form that was timed.
        lost: why each other form was not chosen.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    density: float
    chosen: str
    gain: float
    times: Mapping[str, float]
    lost: Mapping[str, str]


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
    """

    layers: tuple[LayerChoice, ...]
    target: str
    device: str
    times: Mapping[str, float]
    verdict: str
    compiled: bool

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
        }

    def __str__(self) -> str:
        header = ("layer", "shape", "density", "chosen", "gain", "the others")
        rows = [
            (
                row.name,
                shape_text(row.shape),
                percent(row.density),
                row.chosen,
                f"{row.gain:.2f}x" if row.times else "-",
                _why(row.lost),
            )
            for row in self.layers
        ]
        table = text_table(header, rows, right=(2, 4)) if rows else "no layers"
        timed = ", ".join(f"{name} {human(ms)} ms" for name, ms in self.times.items())
        return f"{table}\n\n{self.verdict} ({self.device})" + (
            f"\n{timed}" if timed else ""
        )


def choice(trial: Trial, before: Mapping[str, tuple[int, ...]]) -> LayerChoice:
    """The row of a trial; ``before`` has shapes of weights that were cut.

    Example:
        >>> row = choice(Trial("a", "linear", (2, 4), 0.5, "dense"), {"a": (8, 4)})
        >>> row.chosen, row.shape
        ('removal', (8, 4))
    """
    cut = trial.name in before and trial.chosen == DENSE
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
    )


def _why(lost: Mapping[str, str]) -> str:
    """One reason for all, where it is the same."""
    reasons = set(lost.values())
    if len(lost) > 1 and len(reasons) == 1:
        return reasons.pop()
    return "; ".join(f"{form}: {why}" for form, why in lost.items())
