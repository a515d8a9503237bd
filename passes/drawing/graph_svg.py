"""Laid-out graphs as one SVG picture with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from sparsefx.passes.drawing.graph_layout import BOX, HEIGHT, MAX_TEXT, Kind, Picture
from sparsefx.reports.html_page import svg, svg_text
from sparsefx.reports.text_table import elided

# By kind: its name in the legend; fill and border, on light and on dark paper.
COLOURS: dict[Kind, tuple[str, str, str, str, str]] = {
    "input": ("input", "#e7f6ec", "#3f9d63", "#16301f", "#4ca870"),
    "weight": ("weight", "#e8f1fe", "#2f7de1", "#14263f", "#5ea1f5"),
    "scalars": ("mask parameters", "#fdf3e1", "#d19826", "#332710", "#d8a640"),
    "mask": ("mask node", "#efebfd", "#6d5bd0", "#261f47", "#9d8cf5"),
    "op": ("operation", "#f4f6f9", "#8a94a6", "#1e242e", "#77828f"),
    "output": ("output", "#fdeceb", "#cf4b3f", "#3a1a18", "#e2685d"),
}
_SWATCH = 'width="14" height="14" rx="3"'
_MARKER = (
    '<defs><marker id="tip" viewBox="0 0 6 6" refX="3" refY="3" markerWidth="6" '
    'markerHeight="6" orient="auto"><path class="tip" d="M0 0L6 3L0 6z"/></marker>'
    "</defs>"
)


def picture_svg(pictures: Sequence[tuple[str, Picture]]) -> str:
    """Pictures one below the other under their titles, with a legend on top.

    Args:
        pictures: titles and pictures; an empty title takes no room.
    """
    body = [_MARKER]
    for i, (css, (text, *_)) in enumerate(COLOURS.items()):
        body.append(f'<rect class="{css}" x="{16 + 140 * i}" y="14" {_SWATCH}/>')
        body.append(svg_text(36 + 140 * i, 25, text, "dim"))
    y = 50.0
    for title, drawn in pictures:
        if title:
            body.append(svg_text(16, y + 14, title, "head"))
            y += 28
        body.append(f'<g transform="translate(16 {y:g})">{_drawn(drawn)}</g>')
        y += drawn.height + 28
    width = max([860, *(drawn.width + 32 for _, drawn in pictures)])
    return svg(width, y, _style(1, 2), _style(3, 4), "\n".join(body))


def _style(fill: int, border: int) -> str:
    edge = COLOURS["op"][border]
    rules = [
        f".{css} {{ fill: {colours[fill]}; stroke: {colours[border]}; }}"
        for css, colours in COLOURS.items()
    ]
    rules.append(f".edge {{ fill: none; stroke: {edge}; stroke-width: 1.2; }}")
    rules.append(f".tip {{ fill: {edge}; }} .again {{ stroke-dasharray: 4 3; }}")
    return "\n".join(rules)


def _drawn(drawn: Picture) -> str:
    parts = [
        f'<path class="edge" marker-end="url(#tip)" d="{path}"/>'
        for path in drawn.edges
    ]
    for box in drawn.boxes:
        again = " again" * box.again
        first, second = box.lines
        parts.append(
            f"<g><title>{escape(' '.join(box.lines))}</title><rect "
            f'class="{box.kind}{again}" x="{box.x}" y="{box.y}" width="{BOX}" '
            f'height="{HEIGHT}" rx="6"/>'
            f"{svg_text(box.x + 10, box.y + 17, elided(first, MAX_TEXT), 'code')}"
            f"{svg_text(box.x + 10, box.y + 32, second, 'dim')}</g>"
        )
    return "\n".join(parts)
