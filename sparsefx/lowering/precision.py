"""How exactly a lowered model computes: which precisions may be used, within a bound.

Shapes: none; outputs of a model are compared as they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from sparsefx.errors import SparsefxError
from sparsefx.lowering.largest_difference import largest_difference
from sparsefx.lowering.layer_trial import EXACT, Trial
from sparsefx.torch_internals import tree_flatten
from sparsefx.tracing.example_calls import Call, as_calls

TOLERANCE = 5e-2  # of the largest output, where nobody says otherwise
PRECISIONS: Mapping[str, tuple[str, ...]] = {
    EXACT: (),
    "bf16": ("bf16",),
    "int8": ("int8",),
    "auto": ("bf16", "int8"),
}
"""What layers may be in beside exact, by what was asked for."""


def allowed(precision: str, tolerance: float | None, calibration: Any) -> float:
    """The bound on the output's change that was asked for; 0 for ``exact``.

    Raises:
        SparsefxError: the precision is unknown, the bound is no number from 0 on, or
            what was given has no effect.

    Example:
        >>> allowed("int8", None, None), allowed("exact", None, None)
        (0.05, 0.0)
    """
    if precision not in PRECISIONS:
        raise SparsefxError(
            f"precision {precision!r} is unknown; known are {', '.join(PRECISIONS)}"
        )
    given = {"tolerance": tolerance, "calibration": calibration}
    for name, value in given.items() if precision == EXACT else ():
        if value is not None:
            raise SparsefxError(
                f"{name} was given with precision 'exact', where it has no effect; "
                "leave it out, or give precision='bf16', 'int8' or 'auto'"
            )
    if precision == EXACT:
        return 0.0
    if isinstance(calibration, list) and not calibration:
        raise SparsefxError(
            "calibration is an empty list; give calls of the model as in "
            "example_inputs, or leave it out: then these are used"
        )
    if tolerance is None:
        return TOLERANCE
    number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if not number or math.isnan(tolerance) or tolerance < 0:
        raise SparsefxError(
            f"tolerance is {tolerance!r}; give a number from 0 on: by how much outputs "
            "may change, as a share of the largest one, such as 0.02"
        )
    return float(tolerance)


def calls_of(calibration: Any, example: Call) -> list[Call]:
    """The calls on which the output's change is measured."""
    return [example] if calibration is None else as_calls(calibration)


def numbers_of(output: Any) -> list[Tensor]:
    """The tensors of an output that hold real numbers."""
    found = tree_flatten(output)[0]
    return [t for t in found if isinstance(t, Tensor) and t.is_floating_point()]


def change(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest difference of any output, as a share of its largest entry.

    Example:
        >>> import torch
        >>> change([torch.tensor([1.0, 2.0])], [torch.tensor([1.0, 4.0])])
        0.5
    """
    gaps = [largest_difference(a, b) for a, b in zip(found, wanted, strict=True)]
    return math.nan if any(map(math.isnan, gaps)) else max(gaps, default=0.0)


def within(
    trials: Sequence[Trial],
    outputs: Callable[[Sequence[Trial]], Sequence[Tensor]],
    wanted: Sequence[Tensor],
    tolerance: float,
) -> tuple[list[Trial], float]:
    """The trials with which outputs change by ``tolerance`` at most.

    Where they change more with all, each layer that is not exact is measured alone;
    those that change the output most become exact, as few as it takes.

    Args:
        trials: the fastest forms; those that are not exact say what is exact.
        outputs: what the model returns with such trials.
        wanted: what the dense model returns.
        tolerance: the bound, as a share of the largest output.

    Returns:
        The trials and by how much they change the output.
    """
    reduced = [i for i, trial in enumerate(trials) if trial.exact is not None]

    def measured(kept: Sequence[int]) -> float:
        return change(outputs(_exact_but(trials, kept)), wanted)

    total = measured(reduced)
    if not reduced or total <= tolerance:
        return list(trials), total
    alone = {i: measured([i]) for i in reduced}
    reduced.sort(key=lambda i: (math.isnan(alone[i]), alone[i]))
    most, least = len(reduced) - 1, 0  # how many may stay
    total = measured([])
    while least < most:
        half = (least + most + 1) // 2
        found = measured(reduced[:half])
        if found <= tolerance:
            least, total = half, found
        else:
            most = half - 1
    kept = _exact_but(trials, reduced[:least])
    for i in reduced[least:]:
        why = f"alone it changes the output by {alone[i]:.2g}"
        lost = {**kept[i].lost, trials[i].key: why}
        kept[i] = dataclasses.replace(kept[i], lost=lost)
    return kept, total


def _exact_but(trials: Sequence[Trial], kept: Sequence[int]) -> list[Trial]:
    return [
        trial if trial.exact is None or i in kept else trial.exact
        for i, trial in enumerate(trials)
    ]
