"""Sums over the ranks that share a model: all that a step sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """The ranks that hold a model together.

    Every method is collective: all ranks call it, in one order, and get one answer, so
    that whatever is decided by it is decided alike everywhere.

    Attributes:
        group: the process group; None is the default one.
        device: where numbers must lie to be sent.
    """

    group: dist.ProcessGroup | None
    device: torch.device

    def total(self, numbers: Tensor | Sequence[float]) -> Tensor:
        """Sums over ranks, float64, on the CPU."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def most(self, numbers: Tensor | Sequence[float]) -> Tensor:
        """Maxima over ranks, float64, on the CPU; no NaNs."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def counts(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Sums of whole numbers, below ``2**53``."""
        return tuple(int(n) for n in self.total(numbers).tolist())

    def told(self, own: Any) -> list[Any]:
        """What every rank says, by rank."""
        found: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(found, own, group=self.group)
        return found

    def _reduced(self, numbers: Tensor | Sequence[float], how: Any) -> Tensor:
        sent = torch.as_tensor(numbers, dtype=torch.float64).to(self.device, copy=True)
        if sent.numel():
            dist.all_reduce(sent, how, group=self.group)
        return sent.cpu()

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self
