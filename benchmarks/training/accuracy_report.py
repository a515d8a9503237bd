"""Table and figure of the accuracy benchmark, from its runs."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from shared.result_lines import read

KEYS = ("scale", "task", "learner", "density", "seed")
MARKS = ("<!-- {scale}: begin -->", "<!-- {scale}: end -->")
COLOURS = ("#3b7dd8", "#d9822b", "#2a9d6f", "#c0392b", "#7b4fb5", "#8a6d3b", "#c2519c",
           "#777777", "#1f9ea8", "#a3a81f")  # fmt: skip
TITLES = {
    "resnet": "ResNet-18-like on Fashion-MNIST, test accuracy in %",
    "vit": "Small ViT on Fashion-MNIST, test accuracy in %",
    "chars": "Character model on the standard library, test bits a character",
}
SHOWN = 0.05  # of the column of multiply-accumulates
Rows = dict[tuple[str, float], list[dict[str, Any]]]


def runs_of(path: Path, scale: str) -> dict[str, Rows]:
    """All runs of a scale, by task, learner and density."""
    found: dict[str, Rows] = defaultdict(lambda: defaultdict(list))
    for run in read(path, *KEYS).values():
        if run["scale"] == scale:
            found[run["task"]][run["learner"], run["density"]].append(run)
    return found


def spread(values: list[float]) -> str:
    """Mean, standard deviation and number of runs."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.2f} (1)"
    return f"{mean:.2f} ± {statistics.stdev(values):.2f} ({len(values)})"


def table(rows: Rows) -> list[str]:
    """A learner a row, a density a column; in brackets the number of seeds."""
    learners = list(dict.fromkeys(name for name, _ in rows))
    learners.sort(key=lambda name: name != "dense")
    densities = sorted({d for name, d in rows if name != "dense"}, reverse=True)
    heads = [f"{100 * (1 - d):.0f} % sparse" for d in densities]
    shown = min(densities, key=lambda d: abs(d - SHOWN))
    dense = [run for (name, _), runs in rows.items() if name == "dense" for run in runs]
    lines = [
        f"| learner | {' | '.join(heads)} | MACs kept at {100 - 100 * shown:.0f} % |",
        "|---|" + "---|" * (len(heads) + 1),
    ]
    if dense:
        score = spread([run["test"] for run in dense])
        lines.append(f"| dense | {score} |{' |' * (len(heads) - 1)} 100 % |")
    for name in learners:
        if name == "dense":
            continue
        cells, macs = [], "-"
        for density in densities:
            runs = rows.get((name, density), [])
            cells.append(spread([r["test"] for r in runs]) if runs else "-")
            if density == shown and runs and "macs" in runs[0]:
                kept = statistics.fmean(r["macs"] / r["dense_macs"] for r in runs)
                macs = f"{100 * kept:.1f} %"
        lines.append(f"| {name} | {' | '.join(cells)} | {macs} |")
    return lines


def figure(path: Path, found: dict[str, Rows]) -> None:
    """Score over density, one panel a task, one line a learner, as SVG."""
    names = list(dict.fromkeys(n for rows in found.values() for n, _ in rows))
    names = [name for name in names if name != "dense"]
    colours = dict(zip(names, COLOURS, strict=False))
    width, height = 340, 270
    parts = []
    for place, (task, rows) in enumerate(found.items()):
        means = {
            key: statistics.fmean(r["test"] for r in runs) for key, runs in rows.items()
        }
        low, high = min(means.values()), max(means.values())
        pad = 0.05 * (high - low or 1)
        densities = sorted({d for name, d in rows if name != "dense"})
        if not densities:
            continue
        ends = math.log(densities[0] * 0.9), math.log(densities[-1] * 1.1)

        def x(density: float, ends: tuple[float, float] = ends) -> float:
            return 45 + 280 * (math.log(density) - ends[0]) / (ends[1] - ends[0])

        def y(score: float, low: float = low - pad, high: float = high + pad) -> float:
            return 235 - 200 * (score - low) / (high - low)

        inner = [f'<text x="12" y="18" font-weight="bold">{task}</text>']
        for density in densities:
            inner.append(
                f'<text x="{x(density):.1f}" y="252" text-anchor="middle">'
                f"{100 * density:g} %</text>"
            )
        for level in (low, (low + high) / 2, high):
            inner.append(
                f'<text x="40" y="{y(level) + 4:.1f}" text-anchor="end">{level:.1f}'
                f'</text><path d="M45 {y(level):.1f}h280" stroke="#ddd"/>'
            )
        for name, colour in colours.items():
            points = [(d, means[name, d]) for d in densities if (name, d) in means]
            line = " ".join(f"{x(d):.1f},{y(v):.1f}" for d, v in points)
            inner.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" '
                'stroke-width="1.5"/>'
            )
            inner += [
                f'<circle cx="{x(d):.1f}" cy="{y(v):.1f}" r="2.5" fill="{colour}"/>'
                for d, v in points
            ]
        dense = [v for (name, _), v in means.items() if name == "dense"]
        if dense:
            inner.append(
                f'<path d="M45 {y(dense[0]):.1f}h280" stroke="black" '
                'stroke-dasharray="4 3"/>'
            )
        shift = f'transform="translate({place * width},0)"'
        parts.append(f"<g {shift}>{''.join(inner)}</g>")
    legend = []
    for i, (name, colour) in enumerate({"dense": "black", **colours}.items()):
        left, top = 15 + 115 * (i % 8), height + 18 * (i // 8)
        legend.append(
            f'<rect x="{left}" y="{top}" width="12" height="4" fill="{colour}"/>'
            f'<text x="{left + 16}" y="{top + 6}">{name}</text>'
        )
    whole = max(len(found), 1) * width
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(whole, 950)} '
        f'{height + 40}" font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}{''.join(legend)}</svg>\n"
    )


def write(path: Path, page: Path | None, scale: str) -> None:
    """Prints the tables; puts them and the figure into a page between its marks."""
    found = runs_of(path, scale)
    lines: list[str] = []
    for task, rows in found.items():
        lines += [f"**{TITLES[task]}**", "", *table(rows), ""]
    print("\n".join(lines))
    if page is None:
        return
    begin, end = (mark.format(scale=scale) for mark in MARKS)
    picture = page.with_name(f"{page.stem}_{scale}.svg")
    figure(picture, found)
    text = page.read_text("utf-8")
    head, rest = text.split(begin)
    tail = rest.split(end)[1]
    image = f"![score over kept share of the parameters]({picture.name})"
    middle = "\n".join([begin, "", *lines, image, "", end])
    page.write_text(head + middle + tail, "utf-8")
