"""Graphs as files to look at: SVG and HTML without other programs, DOT for Graphviz."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path

from torch import fx

from sparsefx.errors import SparsefxError
from sparsefx.passes.drawing.graph_layout import kind, label, picture
from sparsefx.passes.drawing.graph_svg import COLOURS, picture_svg
from sparsefx.reports.html_page import page


def draw(graphs: Mapping[str, fx.GraphModule], path: str | os.PathLike[str]) -> None:
    """Writes graphs as a picture; the suffix of ``path`` picks the format.

    Args:
        graphs: by module path; ``""`` is the whole model.
        path: a file ending in ``.svg``, ``.html`` (the picture and the code) or
            ``.dot`` (for Graphviz).

    Raises:
        SparsefxError: another suffix, or no graph to draw.

    Example:
        >>> from torch import nn
        >>> draw({"": fx.symbolic_trace(nn.Linear(2, 3))}, "linear.svg")
    """
    writers = {".svg": svg_text_of, ".html": html_text_of, ".dot": dot_text_of}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise SparsefxError(
            f"cannot draw to {os.fspath(path)!r}; name a file ending in "
            f"{', '.join(writers)}"
        )
    if not graphs:
        raise SparsefxError(
            "there is no graph to draw: no part of the model could be captured; "
            "sparsefx.report names the parts and the reasons"
        )
    Path(path).write_text(writers[suffix](graphs), encoding="utf-8")


def svg_text_of(graphs: Mapping[str, fx.GraphModule]) -> str:
    """The graphs as one SVG picture."""
    drawn = [(name, picture(module.graph)) for name, module in graphs.items()]
    return picture_svg(drawn)


def html_text_of(graphs: Mapping[str, fx.GraphModule]) -> str:
    """The graphs as a page: a picture and the generated code of each."""
    parts = ["<h1>Graphs</h1>"]
    for name, module in graphs.items():
        parts += [
            f"<h2>{escape(name or 'whole model')}</h2>",
            f'<div class="scroll">{picture_svg([("", picture(module.graph))])}</div>',
            f"<h2>Code</h2><pre>{escape(module.code.strip())}</pre>",
        ]
    return page("sparsefx: graphs", "\n".join(parts))


def dot_text_of(graphs: Mapping[str, fx.GraphModule]) -> str:
    """The graphs in the DOT language, one cluster a graph."""
    lines = [
        "digraph sparsefx {",
        '  node [shape=box, style="rounded,filled", fontname="monospace"];',
    ]
    for i, (name, module) in enumerate(graphs.items()):
        lines.append(f"  subgraph cluster_{i} {{")
        lines.append(f"    label={json.dumps(name)};")
        for node in module.graph.nodes:
            text = json.dumps("\n".join(filter(None, label(node))))
            _, fill, border, *_ = COLOURS[kind(node)]
            colours = f'fillcolor="{fill}", color="{border}"'
            lines.append(f'    "{i}.{node.name}" [label={text}, {colours}];')
            for value in node.all_input_nodes:
                lines.append(f'    "{i}.{value.name}" -> "{i}.{node.name}";')
        lines.append("  }")
    return "\n".join([*lines, "}", ""])
