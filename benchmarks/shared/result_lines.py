"""Results of benchmarks: one file a benchmark, one line of JSON a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def append(path: Path, run: Mapping[str, Any]) -> None:
    """Adds a run: in one write, so that lines of several processes stay whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = (json.dumps(run) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        written = file.write(line)
    if written != len(line):
        raise OSError(f"{path}: only {written} of {len(line)} bytes fitted on the disk")


def read(path: Path, *keys: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The runs by the values of the keys, sorted; the last one with equal values."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = {tuple(run[key] for key in keys): run for run in map(json.loads, lines)}
    return {key: found[key] for key in sorted(found)}
