"""The runs of `tests/authors_runs.py` by the authors' own code, beside ours.

    PYTHONPATH=. python benchmarks/authors.py --reference PATH --granet PATH

PATH are checkouts of facebookresearch/spartan and of VITA-Group/GraNet. Every weight
that a layer sees is compared at every twentieth step, the last frozen ones included;
the largest difference is printed. With --record FILE what the authors' code did is
written, for the tests. Their code differs from ours in this, and is changed so here:

- Spartan's Sinkhorn loop stops early; it runs until its objective stands still.
- Spartan's baselines keep one weight fewer where the budget is a whole number; the
  budgets of these runs are not. They freeze at steps - int(0.2 * steps), we at
  int(0.8 * steps): the same where steps is a multiple of five.
- GraNet's pruning keeps one weight fewer, and stops one update before its target:
  `rivals.authors_masking.CHANGES`. Its random masks are drawn entry by entry; ours, of
  exact counts, are copied. What it moves after the last step nobody trains: the runs do
  not end at an update.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rivals import authors_masking, authors_package
from torch import Tensor

import sparsefx
from tests.authors_runs import (
    LAYERS,
    RUNS,
    Run,
    network,
    optimizer_of,
    ours,
    told,
    trained,
    trained_by_us,
)
from tests.trajectories import write

Moments = Iterator[tuple[int, float, list[Tensor]]]
COMMAND = (
    "PYTHONPATH=. python benchmarks/authors.py --reference SPARTAN --granet GRANET "
    "--record tests/authors.json"
)


def spartan(path: str, run: Run) -> Moments:
    """A run by Spartan's authors."""
    module, net = authors_package.package(path), network()
    config = module.SparsifierConfig(
        **{
            "cost_frac_target": 0.2,
            "adjust_cost_frac": False,
            "sinkhorn_tol": 1e-14,
            "sinkhorn_max_iters": 50_000,
            **run.theirs,
        }
    )
    sparsifier = module.Sparsifier(net, config, run.steps, verbose=False)
    optimizer = optimizer_of(net)

    def after(_: int) -> None:
        optimizer.step()
        sparsifier.step()

    def seen() -> Sequence[Tensor]:
        return [net.get_submodule(layer).masked_weight for layer in LAYERS]

    return trained(net, run.steps, after, seen)


def granet(path: str, run: Run) -> Moments:
    """A run by GraNet's authors, from our first masks."""
    net, drawn = network(), sparsefx.masks(ours(run))
    optimizer, every = optimizer_of(net), run.options["update_every"]
    prune = run.options.get("end_step", 0)
    masking = authors_masking.masking(
        path, net, optimizer, run.theirs, run.steps, every, prune
    )
    for name, mask in drawn.items():
        masking.masks[name] = mask.double()
    masking.apply_mask()

    def after(number: int) -> None:
        if run.moves_until is not None and number > run.moves_until:
            masking.prune_every_k_steps = None
        masking.step()

    def seen() -> Sequence[Tensor]:
        return [net.get_submodule(layer).weight for layer in LAYERS]

    return trained(net, run.steps, after, seen)


CODES: dict[str, Callable[[str, Run], Moments]] = {"spartan": spartan, "granet": granet}


def main() -> None:
    """Makes the runs, compares, and records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", help="a checkout of facebookresearch/spartan")
    parser.add_argument("--granet", help="a checkout of VITA-Group/GraNet")
    parser.add_argument("--only", default="", help="runs whose names contain this")
    parser.add_argument("--record", type=Path, help="write what authors' code did")
    given = parser.parse_args()
    torch.set_num_threads(1)
    paths = {"spartan": given.reference, "granet": given.granet}
    found: dict[str, Any] = {"command": COMMAND, "torch": torch.__version__}
    for name, run in RUNS.items():
        path = paths[run.code]
        if path is None or given.only not in name:
            continue
        moments, worst = [], 0.0
        pairs = zip(CODES[run.code](path, run), trained_by_us(run), strict=True)
        for (step, loss, theirs), (_, _, mine) in pairs:
            rows = zip(theirs, mine, strict=True)
            worst = max(worst, *(float((a - b).abs().max()) for a, b in rows))
            moments.append(told(step, loss, theirs))
        found[name] = moments
        print(
            f"{name:20} {run.steps} steps, largest difference {worst:.1e}", flush=True
        )
    if given.record:
        write(given.record, found)


if __name__ == "__main__":
    main()
