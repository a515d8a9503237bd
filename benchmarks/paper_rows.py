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
from collections.abc import Iterator, Mapping, Sequence
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


def outcomes(found: Sequence[Row]) -> dict[str, set[str]]:
    """By name, what became of the tests of rows: PASSED, FAILED, ERROR."""
    names = {name for row in found for name in row.tests}
    ids = [f"{path}::{name}" for name in sorted(names) for path in places()[name]]
    # the last -m counts: slow tests too
    asked = ["-q", "-rA", "--tb=no", "--no-header", "-m", "slow or not slow"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *asked, *ids],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    seen: dict[str, set[str]] = {}
    for end, name in re.findall(
        r"^(PASSED|FAILED|ERROR) .*?::(\w+)", done.stdout, re.M
    ):
        seen.setdefault(name, set()).add(end)
    return seen


def verdict(row: Row, seen: Mapping[str, set[str]]) -> str:
    """What a row's tests say."""
    if row.why.startswith(WHY):
        return row.why
    wrong = [name for name in row.tests if seen.get(name) != {"PASSED"}]
    return f"WRONG: {', '.join(wrong)}" if wrong else "right, tested"


def main(words: Sequence[str] | None = None) -> int:
    """Prints the tables; 1 if a row is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paper", nargs="?", default="", help="part of a title")
    wanted = parser.parse_args(words).paper
    found = [row for row in rows() if wanted in row.paper]
    seen, last, wrong = outcomes(found), "", 0
    for row in found:
        if row.paper != last:
            print(f"\n## {row.paper}\n\n| row | verdict |\n|---|---|")
        last, said = row.paper, verdict(row, seen)
        wrong += said.startswith("WRONG")
        print(f"| {row.name} | {said} |")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
