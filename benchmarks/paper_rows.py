"""Remakes the tables of docs/papers.md: runs the tests that each row names.

    python benchmarks/paper_rows.py             # all; minutes
    python benchmarks/paper_rows.py Spartan     # the tables whose title says so

A row is "right, tested" where all its tests pass, "missing on purpose" where it says
why, and "WRONG" otherwise.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "papers.md"
WHY = "missing on purpose: "


@dataclass(frozen=True)
class Row:
    """One row: the paper, what of it, and its tests or why there are none."""

    paper: str
    name: str
    tests: tuple[str, ...]
    why: str


def rows() -> Iterator[Row]:
    """The rows of the page."""
    paper = ""
    for line in PAGE.read_text("utf-8").splitlines():
        paper = line[3:] if line.startswith("## ") else paper
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if paper and line.startswith("| ") and cells[0] != "row":
            name, text = cells
            yield Row(paper, name, tuple(re.findall(r"`(test_\w+)`", text)), text)


@cache
def places() -> dict[str, list[str]]:
    """The files, from the root, that define a test, by its name."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                where = path.relative_to(ROOT).as_posix()
                found.setdefault(node.name, []).append(where)
    return found


def outcome(row: Row) -> str:
    """What a row's tests say now."""
    if row.why.startswith(WHY):
        return row.why
    ids = [f"{path}::{name}" for name in row.tests for path in places()[name]]
    # the last -m counts: slow tests too
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", *ids]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = done.stdout.splitlines()[-1:] or [""]
    verdict = "right, tested" if done.returncode == 0 else "WRONG"
    return f"{verdict} ({found[0]})"


def main(words: Sequence[str] | None = None) -> int:
    """Prints the tables; 1 if a row is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paper", nargs="?", default="", help="part of a title")
    wanted, last, wrong = parser.parse_args(words).paper, "", 0
    for row in rows():
        if wanted not in row.paper:
            continue
        if row.paper != last:
            print(f"\n## {row.paper}\n\n| row | verdict |\n|---|---|")
        last, verdict = row.paper, outcome(row)
        wrong += verdict.startswith("WRONG")
        print(f"| {row.name} | {verdict} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
