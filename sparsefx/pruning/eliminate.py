r"""Which units to drop, one after another, and what their going costs.

Dropping the columns ``B`` of a layer whose other weights make up for it as well as they
can costs ``tr W_B [H^-1]_BB^-1 W_B'``, after which

    W    <- W - W_B [H^-1]_BB^-1 [H^-1]_B:
    H^-1 <- H^-1 - [H^-1]_:B [H^-1]_BB^-1 [H^-1]_B:

Backward elimination drops the cheapest units, a small share of those left at a time,
until one is left. Units that several products use cost their sum.

Source: Hassibi, Stork, "Second Order Derivatives for Network Pruning: Optimal Brain
Surgeon", NIPS 1992, for blocks of columns; Frantar, Kurtic, Alistarh, "ZipLM", NeurIPS
2023 (arXiv 2302.04089), who drop heads and neurons so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SHARE = 32  # of the units left, a step drops about one of so many


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A product that uses what units compute.

    Attributes:
        target: its weight, (outputs, inputs).
        moments: of its inputs, (inputs, inputs), positive definite.
        owner: the unit that computes each input, -1 for none; all own as many.
    """

    target: Tensor
    moments: Tensor
    owner: Tensor


def eliminate(products: Sequence[Columns], units: int) -> tuple[Tensor, Tensor]:
    """The order in which units go, and the loss of all products afterwards.

    Args:
        products: all that use the units.
        units: their number.

    Returns:
        The units, (units - 1,), the first to go first; and ``tr (U - W) H (U - W)'`` of
        the best ``U``, (units,), after none, one, two of them have gone.

    Example:
        >>> weight = torch.tensor([[3.0, 1.0, 2.0]])
        >>> one = Columns(weight, torch.eye(3), torch.arange(3))
        >>> order, losses = eliminate([one], 3)
        >>> order.tolist(), losses.tolist()
        ([1, 2], [0.0, 1.0, 5.0])
    """
    states = [_State(product, units) for product in products]
    alive = torch.ones(units, dtype=torch.bool)
    order: list[int] = []
    losses, total = [0.0], 0.0
    while (left := units - len(order)) > 1:
        costs = torch.stack([state.costs() for state in states]).sum(0)
        costs = torch.where(alive, costs, torch.inf)
        going = costs.argsort(stable=True)[: min(max(left // _SHARE, 1), left - 1)]
        step = sum(state.drop(going) for state in states) / len(going)
        for unit in going.tolist():
            total += step
            order.append(unit)
            losses.append(total)
        alive[going] = False
    return torch.tensor(order), torch.tensor(losses, dtype=torch.float64)


def refitted(target: Tensor, moments: Tensor, kept: Tensor) -> Tensor:
    """The weight that does what the target does, of least error, on some inputs alone.

    Args:
        target: (outputs, inputs).
        moments: (inputs, inputs), positive definite.
        kept: (inputs,), bool.

    Example:
        >>> mixed = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
        >>> kept = torch.tensor([True, False])
        >>> refitted(torch.tensor([[2.0, 2.0]]), mixed, kept)
        tensor([[3., 0.]])
    """
    whole, right = moments.double(), target.double() @ moments.double()[:, kept]
    found = torch.zeros_like(target)
    best = torch.linalg.solve(whole[kept][:, kept], right.mT)
    found[:, kept] = best.mT.to(found)
    return found


class _State:
    """A product's weight and inverse moments, without what has gone."""

    def __init__(self, product: Columns, units: int) -> None:
        owner = product.owner
        order = owner.argsort(stable=True)
        self.index = order[int((owner < 0).sum()) :].view(units, -1)
        self.weight = product.target.double().clone()
        self.inverse = torch.linalg.inv(product.moments.double())

    def costs(self) -> Tensor:
        """What dropping each unit would cost now; of those that have gone, anything."""
        blocks = self.inverse[self.index[:, :, None], self.index[:, None]]
        columns = self.weight[:, self.index].permute(1, 2, 0)  # units, own, outputs
        root = torch.linalg.cholesky(blocks)
        found: Tensor = torch.linalg.solve_triangular(root, columns, upper=False)
        return found.square().sum((1, 2)).cpu()

    def drop(self, units: Tensor) -> float:
        """Drops units; returns what it costs."""
        gone = self.index[units.to(self.index.device)].flatten()
        weight, inverse = self.weight, self.inverse
        share = torch.linalg.solve(inverse[gone][:, gone], inverse[gone])
        own = weight[:, gone]
        cost = float((own @ torch.linalg.inv(inverse[gone][:, gone]) * own).sum())
        weight -= own @ share
        inverse -= inverse[:, gone] @ share
        weight[:, gone] = 0.0
        inverse[gone], inverse[:, gone] = 0.0, 0.0
        inverse[gone, gone] = 1.0
        return cost
