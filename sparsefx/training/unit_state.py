"""The gates of a model's units, their scores and the step count, registered in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.passes.gate_units import UnitGates
from sparsefx.passes.units.unit_map import Share, UnitGroup


class UnitState(UnitGates):
    """Gates and what their learner remembers; its forward is the identity.

    Attributes:
        step: optimizer steps taken, int64.
        frozen: gates no longer move.
        consumers: by site number, the weight and whose columns it has.
    """

    step: Tensor
    frozen: Tensor

    def __init__(  # noqa: D107
        self, groups: Sequence[UnitGroup], device: torch.device | None = None
    ) -> None:
        super().__init__([g.name for g in groups], [g.size for g in groups], True)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool))
        self.__dict__["trainer"] = None
        self.consumers: list[tuple[str, list[tuple[int, Share]]]] = []
        places: dict[str, list[tuple[int, Share]]] = {}
        for index, group in enumerate(groups):
            for share in group.tensors:
                rows = group.row_dims.get(share.name, ())
                if share.name in group.consumers and share.dim not in rows:
                    places.setdefault(share.name, []).append((index, share))
        self.consumers.extend(places.items())
        self.to(device)

    def forward(self, value: Any) -> Any:
        """Returns ``value``: containers that call all their children stay right."""
        return value

    def masked(self, weight: Tensor, index: int) -> Tensor:
        """The weight that Python reads: columns times the gates of their units."""
        return self.gated(weight, self.consumers[index][1])

    def gated(self, weight: Tensor, shares: Sequence[tuple[int, Share]]) -> Tensor:
        """A weight times the gates of the units that divide it."""
        for number, share in shares:
            gate = self.get_buffer(f"gate_{number}")
            known = torch.cat([gate, gate.new_ones(1)])
            factor = known[share.owner.to(weight.device)].to(weight.dtype)
            shape = [1] * weight.ndim
            shape[share.dim] = -1
            weight = weight * factor.view(shape)
        return weight

    def masks(self) -> dict[str, Tensor]:
        """Whether each unit is kept, by group."""
        return {name: self[name] != 0 for name in self.names}

    def scores(self) -> dict[str, Mapping[str, Tensor]]:
        """Mean scores since they were last cleared, by group; empty before any."""
        found: dict[str, Mapping[str, Tensor]] = {}
        for index, name in enumerate(self.names):
            count = self.get_buffer(f"seen_{index}")
            if bool(count > 0):
                found[name] = {
                    kind: (self.get_buffer(f"{kind}_{index}") / count).cpu()
                    for kind in ("taylor", "growth")
                }
        return found

    def clear(self) -> None:
        """Forgets the scores."""
        for index in range(len(self.names)):
            for kind in ("taylor", "growth", "seen"):
                self.get_buffer(f"{kind}_{index}").zero_()
