"""Commands on saved reports: shown, written as a page, compared."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparsefx.commands.answer import Answer, Plain, Rows
from sparsefx.errors import SparsefxError
from sparsefx.reports.report import Report
from sparsefx.reports.text_table import human, percent


def report(arguments: Namespace) -> Answer:
    """A saved report as a table, or as a page."""
    found = _read(arguments.path)
    if not arguments.html:
        return found
    found.to_html(arguments.html)
    return Plain(f"written to {arguments.html}", {"path": arguments.html})


def diff(arguments: Namespace) -> Answer:
    """What differs between two saved reports, layer by layer and in total."""
    first, second = _read(arguments.first), _read(arguments.second)
    rows = list(_layers(first, second))
    more = list(_totals(first, second))
    if not rows and not more:
        return Plain("no layer and no total differs", {"rows": [], "more": []})
    header = ("layer", "granularity", "density", "density after", "change")
    return Rows(header, rows, more)


def _layers(first: Report, second: Report) -> Iterator[tuple[str, ...]]:
    """A row for each layer whose density or granularity is another."""
    before = {layer.name: layer for layer in first.layers}
    after = {layer.name: layer for layer in second.layers}
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        kinds = dict.fromkeys(layer.granularity for layer in (old, new) if layer)
        if old and new and old.density == new.density and len(kinds) == 1:
            continue
        change = f"{100 * (new.density - old.density):+.1f}" if old and new else "-"
        shares = (percent(layer.density) if layer else "-" for layer in (old, new))
        yield name, " to ".join(kinds), *shares, change


def _totals(first: Report, second: Report) -> Iterator[str]:
    """A line for each total that is another."""
    for name in {**first.totals, **second.totals}:
        old, new = (_kept(report.totals, name) for report in (first, second))
        if old != new:
            yield f"{name}: {old} to {new}"


def _kept(totals: Mapping[str, Any], name: str) -> str:
    if name not in totals:
        return "not counted"
    total = totals[name]
    return f"{human(total.kept)} of {human(total.dense)} kept"


def _read(path: str) -> Report:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SparsefxError(f"{path} cannot be read: {error}") from None
    try:
        return Report.from_dict(data)
    except SparsefxError as error:
        raise SparsefxError(f"{path}: {error}") from None
