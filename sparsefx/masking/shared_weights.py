"""Masked weights of which each rank holds a part: FSDP2, tensor parallelism.

A rank holds the masks of its own part and nothing else. FSDP2 gathers weights that are
masked already, by the hook that torch has for it on the part of a parameter
(``fsdp_pre_all_gather``); a weight that stays in parts is masked where layers read it.
Gradients are made whole when the backward pass has ended
(`sparsefx.masking.rank_gradients`).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.kernels.mask_rule import readable
from sparsefx.kernels.ranks import Ranks
from sparsefx.kernels.shards import Box, Shard
from sparsefx.masking.distribution import bounds_of_part, is_dtensor, local_part
from sparsefx.masking.rank_gradients import Part, RankGradients

if TYPE_CHECKING:
    from sparsefx.masking.sparse_state import SparseState


class SharedWeights:
    """The weights of a state that are spread over ranks.

    Attributes:
        parts: by site number.
    """

    def __init__(self, state: SparseState) -> None:  # noqa: D107
        self.parts: dict[int, Part] = {}
        self._state = weakref.ref(state)
        self._met: tuple[Ranks, list[bool]] | None = None
        self.gradients = RankGradients(self.parts)

    # -- how weights are spread ------------------------------------------------------

    def takes(self, index: int, parameter: Tensor, *, gathered: bool) -> Box | None:
        """Whether a parameter is put where a weight was: where its part lies, if new.

        Raises:
            MaskError: the weight's masks cannot be spread over ranks so.
        """
        known = self.parts.get(index)
        if known is not None and known.gathered:
            if is_dtensor(parameter) and alike(parameter, known.parameter):
                known.parameter = parameter
                self._hook(index)
            return None  # else it is what has been gathered
        box = Box(tuple(parameter.shape), *bounds_of_part(parameter))
        self.parts[index] = Part(parameter, box, gathered)
        self._met = None
        if gathered:
            self._hook(index)
        return box

    def _hook(self, index: int) -> None:
        """Makes FSDP2 gather the masked weight."""
        local: Any = self.parts[index].local
        shared = weakref.ref(self)

        def masked(mesh: Any, size: Any, stride: Any, module: Any, policy: Any) -> Any:
            live = shared()
            assert live is not None, "it lives as long as the model"
            found = live.masked(index)
            found = found.to(policy.param_dtype or found.dtype)
            rows = -(-size[0] // mesh.size())
            if found.shape[1:] == size[1:] and len(found) < rows:  # the last ranks
                found = torch.cat(
                    [found, found.new_zeros(rows - len(found), *size[1:])]
                )
            return (found,), None

        def whole(found: Any, _: Any, dtype: Any, *, out: Any = None) -> Any:
            return None if out is not None else (found[0], found)

        local.fsdp_pre_all_gather, local.fsdp_post_all_gather = masked, whole

    def check(self, names: Sequence[str]) -> None:
        """Refuses a model whose parts no longer gather masked weights.

        Raises:
            MaskError: weights were spread in part, or moved since.
        """
        if all(part.gathered for part in self.parts.values()):
            odd = [name for i, name in enumerate(names) if i not in self.parts]
            if odd:
                raise MaskError(
                    f"{odd[0]!r} is whole on every rank while other masked weights are "
                    "spread by fully_shard; call fully_shard on the root as well"
                )
        for i, part in self.parts.items():
            if part.gathered and not hasattr(part.local, "fsdp_pre_all_gather"):
                raise MaskError(
                    f"{names[i]!r} was moved after fully_shard, and is gathered "
                    "without its mask; move the model to its device and dtype before"
                )

    @property
    def ranks(self) -> Ranks:
        """The ranks that hold the weights together; collective at first."""
        return self._meet()[0]

    def _meet(self) -> tuple[Ranks, list[bool]]:
        if self._met is None:
            state = self._state()
            assert state is not None
            self.check(state.names)
            ranks = _ranks_of([part.parameter for part in self.parts.values()])
            boxes = [
                self.parts[i].box if i in self.parts else None
                for i in range(len(state.names))
            ]
            own = [box and (box.shape, box.offset) for box in boxes]
            everybody = ranks.told((torch.distributed.get_rank(), own))
            me = [their for their, _ in everybody].index(torch.distributed.get_rank())
            counted = [
                [row[i] for _, row in everybody].index(place) == me
                for i, place in enumerate(own)
            ]
            self._met = ranks, counted
        return self._met

    def spread(self, values: list[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        """The values of this rank's parts, as the solver takes them."""
        ranks, counted = self._meet()
        found: list[Any] = [
            Shard(readable(value), self._box(i, weights[i]), ranks, counted[i])
            for i, value in enumerate(values)
        ]
        return cast(list[Tensor], found)

    def _box(self, index: int, weight: Tensor) -> Box:
        part, shape = self.parts.get(index), tuple(weight.shape)
        return Box(shape, shape, (0,) * len(shape)) if part is None else part.box

    def summed(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Counts of all ranks together, one a site."""
        ranks, counted = self._meet()
        return ranks.counts([n * own for n, own in zip(counts, counted, strict=True)])

    def whole(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """This rank's parts of tensors like the weights, as whole tensors, spread."""
        return [
            _like(self.parts[i].parameter, part) if i in self.parts else part
            for i, part in enumerate(parts)
        ]

    def parameters(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The parameters of all sites; `weights` has those that are not shared."""
        parts = self.parts
        return [parts[i].parameter if i in parts else w for i, w in enumerate(weights)]

    # -- forward ---------------------------------------------------------------------

    @torch.no_grad()
    def masked(self, index: int) -> Tensor:
        """The masked part of a weight."""
        state = self._state()
        assert state is not None
        return state.masked_part(self.parts[index].local, index)

    def finish(self, number: int, total: Tensor) -> tuple[list[Tensor], Tensor]:
        """Makes ``.grad`` the local gradient; collective.

        Args:
            number: of the backward pass that has ended.
            total: ``sum G w s`` of weights that this rank holds whole.

        Returns:
            The weights, or this rank's parts, with their gradients; and ``sum G w s``
            of every site, of shared ones over all ranks.
        """
        state = self._state()
        assert state is not None
        weights, totals = self.gradients.finish(state, number)
        if totals is not None and state.still is None:
            ranks, counted = self._meet()
            rows = zip(totals, counted, strict=True)
            own = torch.stack([row * mine for row, mine in rows]).sum(0)
            whole = total.new_tensor([float(mine) for mine in counted])
            total = ranks.total(whole * total + own).to(total.device)
        return weights, total

    def read(self, weight: Tensor, index: int, mu: Tensor) -> Tensor:
        """What a module shows of a weight."""
        part = self.parts[index]
        if part.gathered and weight is part.parameter:
            return weight  # no layer reads it: FSDP2 does
        masked = weight.detach()
        if not part.gathered:
            masked = _like(weight, self.masked(index))
        if not (torch.is_grad_enabled() and weight.requires_grad):
            return masked
        return self.gradients.read(weight, masked, mu, index)


def alike(one: Any, other: Any) -> bool:
    """Whether two parameters are spread alike."""
    alike = one.device_mesh == other.device_mesh and one.placements == other.placements
    return bool(alike)


def _like(weight: Any, local: Tensor) -> Tensor:
    """A whole tensor spread like a weight, of this rank's part."""
    found: Tensor = type(weight).from_local(
        local,
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )
    return found


def _ranks_of(parameters: Sequence[Any]) -> Ranks:
    """The ranks over which parameters are spread.

    Raises:
        MaskError: torch has no one group for them.
    """
    meshes = sorted((p.device_mesh for p in parameters), key=lambda mesh: -mesh.size())
    mesh, device = meshes[0], local_part(parameters[0]).device
    if mesh.size() == torch.distributed.get_world_size():
        return Ranks(None, device)
    if mesh.ndim == 1:
        return Ranks(mesh.get_group(), device)
    raise MaskError(
        f"masked weights are spread over {mesh.size()} of "
        f"{torch.distributed.get_world_size()} ranks in {mesh.ndim} dimensions; start "
        "the ranks of one model by themselves, or spread it over one dimension"
    )
