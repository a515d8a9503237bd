"""Do well connected masks score higher? Rank correlations over the runs that are kept.

    python benchmarks/training/spectral_correlation.py

Reads the lines of benchmarks/training/sparse_ift.py: the test accuracy of each run, and
each spectral quantity of its final masks, a mean over layers. Spearman's coefficient
with a 95 % interval (percentiles of a bootstrap over the runs), for all runs and for
each group of them. Runs of one group share density or member, so that what they are is
not taken for how they are connected.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from scipy.stats import bootstrap, rankdata
from shared.result_lines import RESULTS, read

from sparsefx.training.spectral_report import QUANTITIES

KEYS = ("member", "density", "learner", "seed")
LEAST = 8  # runs of which a rank correlation says anything


def correlation(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Spearman's coefficient and the ends of its 95 % interval."""
    columns = tuple(np.array(column) for column in zip(*pairs, strict=True))
    found = bootstrap(
        columns,
        spearman,
        paired=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(spearman(*columns)), float(found.low), float(found.high)


def spearman(x: Any, y: Any, axis: int = -1) -> Any:
    """The correlation of ranks along an axis; 0 where all are equal."""
    ranks = [rankdata(values, axis=axis) for values in (x, y)]
    a, b = (each - each.mean(axis=axis, keepdims=True) for each in ranks)
    size = np.sqrt((a * a).sum(axis=axis) * (b * b).sum(axis=axis))
    return (a * b).sum(axis=axis) / np.maximum(size, np.finfo(float).tiny)


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """A row for each quantity and group of runs that has enough of them."""
    sparse = [run for run in runs if run["member"] != "dense"]
    groups: dict[str, list[Mapping[str, Any]]] = {"all": sparse}
    for run in sparse:
        for name in (run["member"], f"density {run['density']:g}"):
            groups.setdefault(name, []).append(run)
    lines = ["| quantity | runs | number | Spearman | 95 % interval |"]
    lines.append("|---|---|---|---|---|")
    for quantity in QUANTITIES:
        for name, members in groups.items():
            values = [(run.get(quantity), run["test"]) for run in members]
            pairs = [(x, y) for x, y in values if x is not None]
            if len(pairs) >= LEAST:
                rho, low, high = correlation(pairs)
                numbers = f"{len(pairs)} | {rho:.2f} | {low:.2f} to {high:.2f}"
                lines.append(f"| {quantity} | {name} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=RESULTS / "sparse_ift.jsonl")
    given = parser.parse_args()
    print(table(list(read(given.runs, *KEYS).values())))


if __name__ == "__main__":
    main()
