"""Pruning plasticity: how well a network recovers from being pruned once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sparsefx.errors import PolicyError
from sparsefx.learners import learner_of
from sparsefx.settings.rules import number, refuse
from sparsefx.training.life import life_of
from sparsefx.training.live_model import transform


@dataclass(frozen=True, slots=True)
class Plasticity:
    """Scores around one pruning.

    Attributes:
        rate: share of the cost that was pruned.
        before: score of the network as it was.
        pruned: right after pruning (and regrowing).
        after: when training has gone on.

    Example:
        >>> Plasticity(rate=0.5, before=0.75, pruned=0.25, after=0.5).plasticity
        -0.25
    """

    rate: float
    before: float
    pruned: float
    after: float

    @property
    def plasticity(self) -> float:
        """``after - before``: negative is damage that was not recovered."""
        return self.after - self.before


def pruning_plasticity(
    model: nn.Module,
    *,
    rate: float,
    train: Callable[[nn.Module], object],
    evaluate: Callable[[nn.Module], float],
    regrow: float = 0.0,
    backward: Callable[[nn.Module], object] | None = None,
    cost: str = "params",
    example_inputs: Any = None,
    **overrides: Any,
) -> Plasticity:
    r"""Prunes a copy of a network once, trains it on, and compares the scores.

    The largest weights by ``|w| / cost`` are kept over all layers, or in each as many
    (``allocation="uniform"``). With ``regrow`` a share of those, the smallest of each
    layer, then gives way to as many others of largest gradient, or drawn at random
    (``learner="set"``), which start at zero. Plasticity is ``score_after -
    score_before``: call this at several moments of a training run to see when a network
    still recovers. Source: Liu et al., "Sparse Training via Boosting Pruning Plasticity
    with Neuroregeneration", 2021 (arXiv 2106.10404).

    Args:
        model: a network as it is at some moment of training; it is left as it is.
        rate: share of the cost to prune, in (0, 1).
        train: trains the masked network it is given for as long as the question asks,
            with an optimizer of its own; masks stay.
        evaluate: the score of a network; higher is better.
        regrow: share of the weights left that regeneration moves, in [0, 1].
        backward: runs a loss and its backward pass on the network it is given, for
            the gradients that regeneration ranks by; needed with ``regrow``, unless it
            is random.
        cost: what is pruned: ``"params"``, ``"macs"`` ...
        example_inputs: as for `sparsefx.transform`; needed for MACs.
        overrides: fields of `sparsefx.Policy`: ``allocation="uniform"``,
            ``learner="set"``, ``seed=1``, ``regrow_dropped=True`` ...

    Raises:
        PolicyError: the rate or the share is out of range, or ``backward`` is missing.

    Example:
        >>> import torch
        >>> x = torch.linspace(-1, 1, 16).reshape(8, 2)
        >>> net = nn.Linear(2, 2)
        >>> def loss(m):
        ...     return (m(x) - x).square().mean()
        >>> def train(m):
        ...     optimizer = torch.optim.SGD(m.parameters(), lr=0.5)
        ...     for _ in range(20):
        ...         optimizer.zero_grad()
        ...         loss(m).backward()
        ...         optimizer.step()
        >>> found = pruning_plasticity(net, rate=0.5, train=train,
        ...     evaluate=lambda m: -loss(m).item(), example_inputs=(x,))
        >>> found.after > found.pruned
        True
    """
    if not 0 < rate < 1:
        refuse("rate", rate, "a share of the cost to prune, in (0, 1)")
    number("a share in [0, 1]", 0, 1).read("regrow", regrow)
    learner = learner_of(overrides.get("learner", "granet"))
    if regrow > 0 and learner.scores and backward is None:
        raise PolicyError(
            f"regrow is {regrow:g}, and growth needs gradients; give backward, a "
            "function that runs loss.backward() on the network it is given, or "
            'learner="set", which grows at random'
        )
    before = float(evaluate(model))
    sparse = transform(
        copy.deepcopy(model),
        "granet",
        budget={cost: 1 - rate},
        example_inputs=example_inputs,
        inplace=True,
        **{
            "budget_ramp": "constant",
            "update_every": 1,
            "drop_fraction": float(regrow),
            "optimizer_state": "keep",
            **overrides,
        },
    )
    life = life_of(sparse, "pruning")
    life.begin(drawn=False)
    if regrow > 0:
        if backward is not None:
            sparse.zero_grad()
            backward(sparse)
            sparse.zero_grad()
        life.advance()
    life.freeze()
    pruned = float(evaluate(sparse))
    train(sparse)
    return Plasticity(rate, before, pruned, float(evaluate(sparse)))
