"""Which groups a granularity makes of a weight, and which weights cannot have it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from sparsefx.errors import PolicyError
from sparsefx.masking.n_of_m import NOfM
from sparsefx.masking.weight_groups import Grouping, Layout, MeanGroups
from sparsefx.settings.granularity import Granularity


@functools.cache
def grouping(text: str, shape: tuple[int, ...], op: str, name: str = "") -> Grouping:
    """The groups of a weight.

    Args:
        text: a granularity other than ``"unstructured"``.
        shape: the weight's shape.
        op: what consumes it, as in `sparsefx.Site`.
        name: of the weight, for messages.

    Raises:
        PolicyError: the weight cannot be cut so; the message says why.

    Example:
        >>> grouping("channel", (8, 3, 3, 3), "conv2d").count
        8
        >>> grouping("2:4", (8, 16), "linear").base
        64
    """
    granularity = Granularity.parse(text)
    layout = Layout(shape, _kind(op), granularity.taps)
    label = f"{name or 'the weight'} ({op}, {' x '.join(map(str, shape))})"
    if granularity.kind == "n_of_m":
        kept, of = granularity.sizes
        _require_outputs(layout, text, label)
        _require_whole(shape[_inputs(layout)], of, "input", text, label)
        return NOfM(layout, kept, of)
    if granularity.kind == "block":
        found = MeanGroups(layout, *granularity.sizes)
        rows, columns = layout.sizes[1:]
        if not granularity.pad:
            _require_whole(rows, found.height, "row", text, label)
            _require_whole(columns, found.width, "column", text, label)
        return found
    if granularity.kind == "channel":
        _require_outputs(layout, text, label)
        return MeanGroups(layout, 1, layout.sizes[2])
    if granularity.kind == "kernel" and layout.kind.startswith("conv"):
        width = math.prod(shape[2:])
        if width > 1:
            return MeanGroups(layout, 1, width)
        raise _cannot(text, label, "its kernels hold one weight each")
    raise _cannot(text, label, "only convolutions have kernels")


def _kind(op: str) -> str:
    if op.startswith(("conv_transpose", "conv")):
        return "conv_transpose" if op.startswith("conv_transpose") else "conv"
    rows = ("linear", "attention", "lstm", "gru", "rnn", "embedding")
    return "rows" if op.startswith(rows) else "free"


def _inputs(layout: Layout) -> int:
    """The weight's dimension along which N:M counts."""
    return {"conv": 1, "conv_transpose": 0}.get(layout.kind, len(layout.shape) - 1)


def _require_outputs(layout: Layout, text: str, label: str) -> None:
    if layout.kind == "free":
        raise _cannot(text, label, "which of its dimensions are outputs is not known")


def _require_whole(size: int, unit: int, what: str, text: str, label: str) -> None:
    if size % unit:
        near = _divisors(size)
        hint = f"its {size} {what}s are no multiple of {unit}"
        raise _cannot(text, label, f"{hint}; {', '.join(map(str, near))} would do")


def _divisors(size: int) -> Sequence[int]:
    return [d for d in (4, 8, 16, 32, 64) if size % d == 0] or [size]


def _cannot(text: str, label: str, why: str) -> PolicyError:
    padded = ', append ":pad"' if text.startswith("block") else ""
    return PolicyError(
        f"{label} cannot have the granularity {text}: {why}; give it another one by "
        f'layers={{"pattern": {{"granularity": ...}}}}{padded}, exclude it, or set '
        "fallback='dense'"
    )
