"""Why the rows of a weight are no units, by the operation that made them none."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from sparsefx.passes.units.tags import RESULT, STUCK, Ledger


def lost_units(ledger: Ledger, label: Tensor, known: Collection[str]) -> dict[str, str]:
    """By weight, what its rows meet first on the way to what cannot be removed.

    Args:
        ledger: what was learned of the graph.
        label: the class of each variable.
        known: weights that have units, or a reason already.
    """
    lines = {
        name: range(base, base + ledger.shapes[name][1][dim])
        for (name, dim), base in ledger.rows.items()
        if name not in known
    }
    if not lines or not ledger.edges:
        return dict.fromkeys(lines, "no weight takes what it computes")
    edges = torch.cat(ledger.edges, 1)
    counts = torch.tensor([edge.shape[1] for edge in ledger.edges])
    joiner = torch.arange(len(counts)).repeat_interleave(counts)
    steps, through = _towards_stuck(ledger.variables, edges, joiner)
    found = {}
    for name, own in lines.items():
        nearest = own.start + int(steps[own.start : own.stop].argmin())
        inside = ((edges >= own.start) & (edges < own.stop)).any(0)
        if int(label[nearest]) == STUCK:
            who = ledger.joiners[int(through[nearest])]
            more = "" if steps[nearest] == 1 else ", with others that stay"
            found[name] = f"{who} needs all that it computes{more}"
            if who == RESULT:
                found[name] = "the model returns what it computes"
        elif bool(inside.any()):
            who = ledger.joiners[int(joiner[inside][0])]
            found[name] = f"{who} combines what its rows compute"
        else:
            found[name] = "no weight takes what it computes"
    return found


def _towards_stuck(
    variables: int, edges: Tensor, joiner: Tensor
) -> tuple[Tensor, Tensor]:
    """For each variable: edges to the one that is stuck, and who made the first."""
    far = len(joiner) + 1
    steps = torch.full((variables,), far)
    through = torch.full((variables,), -1)
    steps[STUCK] = 0
    ends = torch.cat([edges, edges.flip(0)], 1)
    makers = torch.cat([joiner, joiner])
    while True:
        nearer = steps[ends[0]] + 1 < steps[ends[1]]
        if not bool(nearer.any()):
            return steps, through
        front = int(steps[ends[0]][nearer].min())
        nearer &= steps[ends[0]] == front
        steps[ends[1][nearer]] = front + 1
        through[ends[1][nearer]] = makers[nearer]
