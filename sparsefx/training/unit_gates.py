"""The gates of a model's units and their scores, registered in the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.masking.distribution import is_dtensor
from sparsefx.masking.held import Held
from sparsefx.passes.gate_units import UnitGates
from sparsefx.passes.units.unit_map import Share, UnitGroup

Places = Sequence[tuple[int, Share]]  # groups by number, and what each owns


class GateState(Held, UnitGates):
    """Gates and what their learner remembers; its forward is the identity.

    Attributes:
        places: by site number, the groups that divide a weight, and how.
    """

    def __init__(  # noqa: D107
        self, groups: Sequence[UnitGroup], places: Sequence[Places], *, scored: bool
    ) -> None:
        super().__init__([g.name for g in groups], [g.size for g in groups], scored)
        self.places = list(places)
        self.follow: Callable[[], None] | None = None
        for index in range(len(self.names)):  # averages of models touch buffers
            gate = self._buffers.pop(f"gate_{index}")
            assert gate is not None
            self.hold(f"gate_{index}", gate)

    def forward(self, value: Any) -> Any:
        """Returns ``value``: containers that call all their children stay right."""
        return value

    def gates(self) -> list[Tensor]:
        """One vector a group; 0 removes a unit."""
        return [self[name] for name in self.names]

    def masked(self, weight: Tensor, index: int) -> Tensor:
        """The weight that Python reads: what units own times their gates."""
        if self.follow is not None:
            self.follow()
        return self.opened(weight, index)

    def takes(self, index: int, parameter: Tensor, *, gathered: bool) -> bool:
        """See `Masks.takes`.

        Raises:
            MaskError: always: units are gated whole.
        """
        if is_dtensor(parameter):
            raise MaskError(
                "learners of units do not spread over ranks (fully_shard, "
                "parallelize_module): use DistributedDataParallel"
            )
        return False

    def opened(
        self, weight: Tensor, index: int, gates: Sequence[Tensor] | None = None
    ) -> Tensor:
        """A site's weight, or anything like it, times the gates of its units."""
        for number, share in self.places[index]:
            gate = self.gates()[number] if gates is None else gates[number]
            known = torch.cat([gate, gate.new_ones(1)])
            factor = known[share.owner.to(weight.device)].to(weight.dtype)
            shape = [1] * weight.ndim
            shape[share.dim] = -1
            weight = weight * factor.view(shape)
        return weight

    def scores(self) -> dict[str, Mapping[str, Tensor]]:
        """Mean scores since they were last cleared, by group; empty before any."""
        found: dict[str, Mapping[str, Tensor]] = {}
        if not self.scored:
            return found
        for index, name in enumerate(self.names):
            count = self.get_buffer(f"seen_{index}")
            if bool(count > 0):
                found[name] = {
                    kind: (self.get_buffer(f"{kind}_{index}") / count).cpu()
                    for kind in ("taylor", "growth")
                }
        return found

    def tallies(self) -> list[Tensor]:
        """What scores are made of; zero forgets them."""
        return [
            self.get_buffer(f"{kind}_{index}")
            for index in range(len(self.names))
            for kind in ("taylor", "growth", "seen")
            if self.scored
        ]


def columns_of(groups: Sequence[UnitGroup]) -> dict[str, Places]:
    """By weight that uses what units compute: the groups whose columns it has."""
    places: dict[str, list[tuple[int, Share]]] = {}
    for index, group in enumerate(groups):
        for share in group.tensors:
            rows = group.row_dims.get(share.name, ())
            if share.name in group.consumers and share.dim not in rows:
                places.setdefault(share.name, []).append((index, share))
    return dict(places)


def parts_of(groups: Sequence[UnitGroup], names: Sequence[str]) -> list[Places]:
    """By masked weight, in the order of the names: all that groups own of it."""
    return [
        [
            (number, share)
            for number, group in enumerate(groups)
            for share in group.tensors
            if share.name == name
        ]
        for name in names
    ]
