"""Spectral quantities over training as a picture: one panel a quantity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from sparsefx.reports.html_page import svg, svg_text
from sparsefx.reports.text_table import human

STYLE = """
.grid { stroke: #e3e8f0; } .layer, .mean { fill: none; }
.layer { stroke: #2f7de1; stroke-opacity: .35; } .mean { stroke: #c2410c;
  stroke-width: 2.5; }
"""
DARK = """
.grid { stroke: #2b323d; } .layer { stroke: #5ea1f5; } .mean { stroke: #fb923c; }
"""
WIDTH, HEIGHT, LEFT, GAP = 520, 150, 80, 70


def history_svg(
    steps: Sequence[int], panels: Mapping[str, Sequence[Sequence[float]]]
) -> str:
    """Thin lines for the layers, a thick one for their mean; NaN leaves a gap.

    Args:
        steps: where the values were taken, ascending.
        panels: by title, one series a layer.

    Example:
        >>> history_svg([0, 1], {"gap": [[0.0, 1.0]]}).count("<polyline")
        2
    """
    parts: list[str] = []
    for index, (title, series) in enumerate(panels.items()):
        parts += _panel(40 + index * (HEIGHT + GAP), title, steps, series)
    bottom = 40 + len(panels) * (HEIGHT + GAP)
    note = "thin: one layer; thick: mean of the layers; along: optimizer steps"
    parts.append(svg_text(16, bottom - 10, note, "dim"))
    return svg(LEFT + WIDTH + 40, bottom + 10, STYLE, DARK, "\n".join(parts))


def _panel(
    y: float, title: str, steps: Sequence[int], series: Sequence[Sequence[float]]
) -> Iterator[str]:
    known = [v for line in series for v in line if math.isfinite(v)] or [0.0]
    low, high = min(known), max(known)
    high = high if high > low else low + 1
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def place(step: int, value: float) -> str:
        across = LEFT + WIDTH * (step - first) / (last - first)
        return f"{across:.1f},{y + HEIGHT * (high - value) / (high - low):.1f}"

    yield svg_text(16, y - 12, title, "head")
    for value in (low, high):
        height = y + HEIGHT * (high - value) / (high - low)
        yield (
            f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{height:.1f}" '
            f'y2="{height:.1f}" class="grid"/>'
        )
        yield svg_text(LEFT - 8, height + 4, f"{value:.3g}", "dim", "end")
    for step in (steps[0], steps[-1]):
        x = LEFT + WIDTH * (step - first) / (last - first)
        yield svg_text(x, y + HEIGHT + 18, human(step), "dim", "middle")
    means = []
    for values in zip(*series, strict=True):
        finite = [value for value in values if math.isfinite(value)]
        means.append(math.fsum(finite) / len(finite) if finite else math.nan)
    for css, line in (*(("layer", line) for line in series), ("mean", means)):
        points = [
            place(step, value)
            for step, value in zip(steps, line, strict=True)
            if math.isfinite(value)
        ]
        yield f'<polyline class="{css}" points="{" ".join(points)}"/>'
