"""One self-contained HTML page, light or dark as the reader's system is."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

# SVG files also stand alone, where variables and the page's style do not reach:
# their colours are classes with a style of their own.
SVG_STYLE = """
text { font: 12px ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, "DejaVu Sans",
  sans-serif; fill: #1c2430; }
.code { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.head { font-weight: 600; font-size: 13px; }
.dim { fill: #667085; }
.paper { fill: #ffffff; }
"""
SVG_STYLE_DARK = """
text { fill: #e6e9ef; }
.dim { fill: #98a2b3; }
.paper { fill: #14181f; }
"""

PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #667085; --paper: #fff;
  --line: #e3e7ee; --card: #f6f8fb; --good: #15803d; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3;
  --paper: #14181f; --line: #2b323d; --card: #1b212b; --good: #4ade80;
  --bad: #f97066; } }
body { margin: 2rem auto; max-width: 66rem; padding: 0 1.2rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 ui-sans-serif, system-ui, "Segoe UI",
  Helvetica, Arial, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
p.dim, .dim { color: var(--dim); margin: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .7rem 1rem; min-width: 9rem; }
.tile b { display: block; font-size: 1.45rem; font-weight: 650; }
.good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
svg { max-width: 100%; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; font-size: .87rem;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--dim); }
th, td { padding: .32rem .6rem; border-bottom: 1px solid var(--line); }
td.right, th.right { text-align: right; white-space: nowrap; }
code, pre { font: .82rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .9rem 1rem; overflow-x: auto; }
summary { cursor: pointer; color: var(--dim); }
"""


def svg(width: float, height: float, style: str, dark: str, body: str) -> str:
    """An SVG picture on its own paper.

    Args:
        width: in pixels.
        height: in pixels.
        style: CSS of its classes, beside those of `SVG_STYLE`.
        dark: the CSS that replaces it on dark screens.
        body: the elements.

    Example:
        >>> svg(8, 4, "", "", "").startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        True
    """
    night = f"@media (prefers-color-scheme: dark) {{{SVG_STYLE_DARK}{dark}}}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">\n'
        f"<style>{SVG_STYLE}{style}{night}</style>\n"
        f'<rect class="paper" width="100%" height="100%"/>\n{body}\n</svg>\n'
    )


def svg_text(x: float, y: float, text: str, css: str = "", anchor: str = "") -> str:
    """A line of text; ``anchor`` is ``""``, ``"middle"`` or ``"end"``.

    Example:
        >>> svg_text(4, 8, "a < b", "dim", "end")
        '<text x="4" y="8" class="dim" text-anchor="end">a &lt; b</text>'
    """
    extra = f' class="{css}"' * bool(css) + f' text-anchor="{anchor}"' * bool(anchor)
    return f'<text x="{x:g}" y="{y:g}"{extra}>{escape(text)}</text>'


def html_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """A table of plain texts.

    Args:
        header: names of the columns.
        rows: one text a column.
        right: indices of the columns aligned on the right.
    """

    def line(tag: str, cells: Sequence[str]) -> str:
        styled = (
            f"<{tag}{' class=right' if i in right else ''}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr>{''.join(styled)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead>{line("th", header)}</thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def html_line(text: str) -> str:
    """A text as a paragraph.

    Example:
        >>> html_line("a < b")
        '<p>a &lt; b</p>'
    """
    return f"<p>{escape(text)}</p>"


def page(title: str, body: str) -> str:
    """A whole page; it loads nothing and runs no script.

    Example:
        >>> "<title>a &amp; b</title>" in page("a & b", "<p>text</p>")
        True
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )
