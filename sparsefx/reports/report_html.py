"""A report as a picture (bars and budget curve) and as a page around it."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from sparsefx.reports.html_page import html_line, html_table, page, svg, svg_text
from sparsefx.reports.text_table import elided, human, percent, share

if TYPE_CHECKING:
    from sparsefx.reports.report import Report
    from sparsefx.reports.report_rows import HistoryPoint

STYLE = """
.track { fill: #e3e8f0; } .density { fill: #6d5bd0; } .cost { fill: #2f7de1; }
.grid { stroke: #e3e8f0; } .line { fill: none; stroke-width: 2; }
.limit { stroke: #c2410c; stroke-dasharray: 5 4; } .soft { stroke: #6d5bd0; }
.hard { stroke: #2f7de1; }
"""
DARK = """
.track { fill: #2b323d; } .density { fill: #9d8cf5; } .cost { fill: #5ea1f5; }
.grid { stroke: #2b323d; } .limit { stroke: #fb923c; } .soft { stroke: #9d8cf5; }
.hard { stroke: #5ea1f5; }
"""
ROW = 22
LABEL = 230  # width of the layers' names
BAR = 180
COLUMN = 330  # a bar and its number
MAX_LABEL = 28  # characters
MAX_POINTS = 400


def report_svg(report: Report) -> str:
    """Density and cost bars of each layer; below them the budget over the steps."""
    width = LABEL + COLUMN * (1 + len(report.cost_names))
    parts = list(_bars(report))
    bottom = 60 + ROW * len(report.layers)
    if len(report.history) > 1:
        parts += _curve(report, bottom + 40, width)
        bottom += 290
    return svg(width, bottom + 10, STYLE, DARK, "\n".join(parts))


def _bars(report: Report) -> Iterator[str]:
    yield svg_text(16, 30, "layer", "head")
    yield svg_text(LABEL, 30, "density", "head")
    for row, layer in enumerate(report.layers):
        y = 44 + ROW * row
        yield svg_text(16, y + 12, elided(layer.name, MAX_LABEL), "code")
        text = percent(layer.density)
        yield _bar(LABEL, y, 1.0, layer.density, "density", text)
    for column, name in enumerate(report.cost_names, start=1):
        x = LABEL + COLUMN * column
        yield svg_text(x, 30, f"{name}, kept of dense", "head")
        most = max((layer.costs[name].dense for layer in report.layers), default=0)
        for row, layer in enumerate(report.layers):
            cost = layer.costs[name]
            track, kept = _ratio(cost.dense, most), _ratio(cost.kept, most)
            text = f"{human(cost.kept)} of {human(cost.dense)}"
            yield _bar(x, 44 + ROW * row, track, kept, "cost", text)


def _bar(x: float, y: float, track: float, kept: float, css: str, text: str) -> str:
    def rectangle(css: str, part: float) -> str:
        return (
            f'<rect class="{css}" x="{x}" y="{y + 2}" width="{BAR * part:.1f}" '
            'height="12" rx="2"/>'
        )

    label = svg_text(x + BAR * track + 8, y + 12, text, "dim")
    return rectangle("track", track) + rectangle(css, kept) + label


def _curve(report: Report, top: float, width: float) -> Iterator[str]:
    name = next(iter(report.budgets), report.cost_names[0])
    dense = report.totals[name].dense
    points = _thinned(report.history)
    last = max(points[-1].step, 1)
    left, right, height = 64, width - 40, 190

    def at(step: int, cost: float) -> str:
        x = left + (right - left) * step / last
        return f"{x:.1f},{top + 16 + height * (1 - _ratio(cost, dense)):.1f}"

    yield svg_text(16, top, f"{name} over the steps, of dense", "head")
    for quarter in range(5):
        y = top + 16 + height * (1 - quarter / 4)
        yield f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
        yield svg_text(left - 8, y + 4, f"{25 * quarter} %", "dim", "end")
        x = left + (right - left) * quarter / 4
        step = human(round(last * quarter / 4))
        yield svg_text(x, top + height + 36, step, "dim", "middle")
    for place, line in enumerate(("soft", "hard", "limit")):
        path = " ".join(at(point.step, getattr(point, line)) for point in points)
        yield f'<polyline class="line {line}" points="{path}"/>'
        x = right - 230 + 80 * place
        yield f'<path class="line {line}" d="M{x} {top - 4}h22"/>'
        yield svg_text(x + 28, top, line, "dim")


def _thinned(history: Sequence[HistoryPoint]) -> Sequence[HistoryPoint]:
    stride = math.ceil(len(history) / MAX_POINTS)
    points = list(history[::stride])
    return points if points[-1] is history[-1] else [*points, history[-1]]


def _ratio(part: float, whole: float) -> float:
    return min(max(part / whole, 0.0), 1.0) if whole else 0.0


def report_cell(report: Report, verdicts: Sequence[str]) -> str:
    """For a notebook's cell, whose page has a style of its own."""
    picture = b64encode(report_svg(report).encode()).decode()
    source = f"data:image/svg+xml;base64,{picture}"
    state = f"policy {report.policy}, step {report.step}" + ", frozen" * report.frozen
    return "".join((
        *map(html_line, (state, *verdicts)),
        f'<img alt="density and cost by layer" src="{source}">',
        _layer_table(report),
    ))  # fmt: skip


def report_html(report: Report) -> str:
    """The page: verdicts on top, the picture, one row a layer, the coverage."""
    frozen = ", frozen" * report.frozen
    parts = [
        "<h1>What training kept</h1>",
        f'<p class="dim">policy <b>{escape(report.policy)}</b>, '
        f"step {report.step}{frozen}</p>",
        f'<div class="tiles">{"".join(_tiles(report))}</div>',
        f'<div class="scroll">{report_svg(report)}</div>',
        "<h2>Layers</h2>",
        _layer_table(report),
        "<h2>Totals</h2>",
        _total_table(report),
    ]
    if report.coverage:
        parts += ["<h2>Parameters</h2>", _coverage(report)]
    return page(f"sparsefx: {report.policy}, step {report.step}", "\n".join(parts))


def _tiles(report: Report) -> Iterator[str]:
    def tile(big: str, small: str, css: str = "") -> str:
        return f'<div class="tile"><b class="{css}">{big}</b>{escape(small)}</div>'

    for name, budget in report.budgets.items():
        kept = percent(share(budget.kept, report.totals[name].dense), digits=3)
        css, verdict = ("good", "met") if budget.met else ("bad", "not met")
        yield tile(kept, f"of dense {name}: budget {verdict}", css)
        allowed = f"of {human(budget.limit)} {name} allowed"
        yield tile(human(budget.kept), allowed)
    if report.coverage:
        masked = sum(row.masked is not None for row in report.coverage)
        yield tile(f"{masked} / {len(report.coverage)}", "parameters masked")


def _layer_table(report: Report) -> str:
    header = ["layer", "op", "shape", "granularity", "density"]
    for name in report.cost_names:
        header += [f"{name} kept", "dense"]
    rows = []
    for layer in report.layers:
        row = [*layer.cells]
        for name in report.cost_names:
            cost = layer.costs[name]
            row += [f"{cost.kept:,.0f}", f"{cost.dense:,.0f}"]
        rows.append(row)
    return html_table(header, rows, right=range(4, len(header)))


def _total_table(report: Report) -> str:
    header = ["cost", "kept", "dense", "share", "fixed", "before any rewrite"]
    rows = []
    for name, total in report.totals.items():
        kept = percent(share(total.kept, total.dense), digits=3)
        numbers = (total.kept, total.dense, total.fixed, total.original)
        first, second, *others = (f"{number:,.0f}" for number in numbers)
        rows.append([name, first, second, kept, *others])
    return html_table(header, rows, right=range(1, len(header)))


def _coverage(report: Report) -> str:
    rows = [
        (row.parameter, row.module, row.masked or "not", row.reason)
        for row in report.coverage
    ]
    table = html_table(("parameter", "module", "masked", "reason"), rows)
    bare = sum(row.masked is None for row in report.coverage)
    summary = f"{len(rows) - bare} masked, {bare} not masked and why"
    return f"<details><summary>{summary}</summary>{table}</details>"
