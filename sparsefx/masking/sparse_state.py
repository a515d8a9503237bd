"""The masks of a model's weights, registered in the model they belong to.

Hard masks are state: a bit a weight, set by `sparsefx.step`, or what a learner stores
(`sparsefx.masking.kept_masks`); they hold whatever becomes of the weights. Soft masks
are computed from weights and scalars, and are 1 once masks stand still. All of it is
held beside parameters and buffers (`sparsefx.masking.held`), so that no optimizer and
no average of models touches it.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sparsefx.kernels.bits import pack, unpack
from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.masking.candidates import Candidates, Values
from sparsefx.masking.compact_weights import Compact, hear, tell
from sparsefx.masking.cut_groups import grouping
from sparsefx.masking.end_of_backward import complete
from sparsefx.masking.held import Held
from sparsefx.masking.kept_masks import KeptMasks, kept_weight
from sparsefx.masking.lasting_masks import LastingMasks
from sparsefx.masking.mask_node import MaskedWeight
from sparsefx.masking.masked_groups import entries, masked_groups
from sparsefx.masking.masked_weight import masked_weight
from sparsefx.masking.shared_weights import SharedWeights
from sparsefx.masking.spread_over_ranks import spread, stored, unstored
from sparsefx.masking.weight_groups import Grouping
from sparsefx.torch_internals import after_backward, backward_number, is_compiling

Owner = tuple[nn.Module, str]
Vectors = Mapping[str, Tensor]  # mask parameters of all sites, by name
FLOATS = ("mu", "slope", "center", "threshold", "price", "spread")
INTEGERS = ("last", "group")


class SparseState(Held):
    """Masks and mask parameters of all sites; its forward is the identity.

    Graphs find a `MaskedWeight` for each site under ``masked_weight_0``, ...

    Attributes:
        names: the sites' parameter names.
        owners: for each site, the modules and attributes that hold its weight.
        rules: for each site, its granularity and what consumes it.
        mu, slope, center, threshold, through, price, spread: float64, shape (sites,).
        last, group: int64, shape (sites,).
        dual: shared multiplier and beta of the last update, float64, shape (2,).
        binding: what several budgets that are spent ask of each site, see
            `sparsefx.masking.budget_gradient`; float64, shape (budgets, sites).
        multipliers: of each budget, for hard and soft masks; float64, (2, budgets).
        kept: stored masks, or None where they are ``bits_0``, ...
        still: masks that stand still, bool, so that nothing needs to be unpacked.
        lasting: soft masks that stay once masks stand still, or None.
        follow: called before masks are read, by copies of a model.
        stood: the weights when masks were written; tools may exchange them meanwhile.
        units: gates around the weights, or None.
        candidates: the weights that may be kept; None where all may.
        shared: the weights of which other ranks hold parts; None where none are.
        compact: those that are stored as their kept entries; None where all are whole.
    """

    kept: KeptMasks | None
    candidates: Candidates | None
    mu: Tensor
    slope: Tensor
    center: Tensor
    threshold: Tensor
    last: Tensor
    through: Tensor
    price: Tensor
    spread: Tensor
    group: Tensor
    dual: Tensor
    binding: Tensor
    multipliers: Tensor

    def __init__(  # noqa: D107
        self,
        names: Sequence[str],
        owners: Sequence[Sequence[Owner]],
        rules: Sequence[tuple[str, str]],
        *,
        budgets: int,
        stored: bool,
        wide: bool,
        lasting: bool,
    ) -> None:
        super().__init__()
        self.names, self.rules = tuple(names), list(rules)
        self.owners = [list(places) for places in owners]
        self.shared: SharedWeights | None = None
        self.compact: Compact | None = None
        count = len(names)
        device = next(iter(self.weights()), torch.empty(0)).device
        kinds = dict.fromkeys((*FLOATS, "through"), torch.float64)
        for name, dtype in (kinds | dict.fromkeys(INTEGERS, torch.int64)).items():
            self.hold(name, torch.zeros(count, dtype=dtype, device=device))
        none = torch.full((2,), math.nan, dtype=torch.float64, device=device)
        self.hold("dual", none)
        zeros = torch.zeros(budgets, count, dtype=torch.float64, device=device)
        self.hold("binding", zeros)
        first = math.nan if budgets > 1 and not stored else 0.0  # of several: not known
        self.hold("multipliers", zeros.new_full((2, budgets), first))
        self.kept = KeptMasks(self.weights(), wide) if stored else None
        self.lasting = LastingMasks(self.weights()) if lasting else None
        self.still: list[Tensor] | None = None
        self.units: Any = None  # a module that is `mask_node.Around`
        self.candidates: Candidates | None = None
        self.follow: Callable[[], None] | None = None
        self.stood = [weakref.ref(weight) for weight in self.weights()]
        for index, weight in enumerate(self.weights()):
            says = f"{self.names[index]}, {self.rules[index][0]}"
            self.add_module(f"masked_weight_{index}", MaskedWeight(self, index, says))
            if not stored:
                everything = torch.ones_like(weight, dtype=torch.bool)
                self.hold(f"bits_{index}", pack(everything))
        self._arm()

    def forward(self, value: Any) -> Any:
        """Returns ``value``: containers that call all their children stay right."""
        return value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.names)} weights)"

    def weights(self) -> list[Tensor]:
        """The latent weights; where kept entries are stored, made of these anew."""
        return self.raw() if self.compact is None else self.compact.whole(self.raw())

    def raw(self) -> list[Tensor]:
        """What is stored of them, one a site; of shared ones this rank's part."""
        found: list[Tensor] = []
        parts = {} if self.shared is None else self.shared.parts
        for index, ((owner, attribute), *_) in enumerate(self.owners):
            part, weight = parts.get(index), owner._parameters[attribute]
            found.append(cast(Tensor, weight) if part is None else part.local)
        return found

    def groups(self) -> list[Grouping | None]:
        """How each weight is cut into groups; None where it is unstructured."""
        alike = self.raw() if self.kept is None else self.hard()
        return [
            None if unit == "unstructured" else grouping(unit, tuple(like.shape), op)
            for (unit, op), like in zip(self.rules, alike, strict=True)
        ]

    @torch.no_grad()
    def values(self, gates: Sequence[Tensor] | None = None) -> list[Tensor]:
        """What the solver ranks: flat weights, or their groups' values, under gates."""
        weights = [
            weight if self.units is None else self.units.opened(weight, index, gates)
            for index, weight in enumerate(self.present())
        ]
        pairs = zip(self.groups(), weights, strict=True)
        found = self.among([entries(groups, weight) for groups, weight in pairs])
        return found if self.shared is None else self.shared.spread(found, weights)

    def present(self) -> list[Tensor]:
        """The latent weights, with zeros for what may not be kept."""
        weights, some = self.weights(), self.candidates
        return [w if some is None else some.opened(w, i) for i, w in enumerate(weights)]

    def among(self, values: list[Values]) -> list[Values]:
        """Of one value an entry, flat, those of entries that may be kept."""
        some = self.candidates
        return values if some is None else some.among(values, self.groups())

    def bits(self) -> list[Tensor]:
        """The hard masks of all sites, as `sparsefx.kernels.bits`."""
        if self.kept is not None:
            return [pack(mask) for mask in self.kept.masks(len(self.names))]
        return [getattr(self, f"bits_{i}") for i in range(len(self.names))]

    def summed(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Counts of all sites, of shared ones over all ranks."""
        return tuple(counts) if self.shared is None else self.shared.summed(counts)

    def hard(self) -> list[Tensor]:
        """The hard masks of all sites, bool, like the weights."""
        if self.kept is not None:
            return self.kept.masks(len(self.names))
        pairs = zip(self.bits(), self.weights(), strict=True)
        return [unpack(bits, weight.shape) for bits, weight in pairs]

    def masked(self, weight: Tensor, index: int) -> Tensor:
        """The weight that a layer sees of a site."""
        if self.follow is not None and not is_compiling():
            self.follow()
        if self.shared is not None and index in self.shared.parts:
            return self.shared.read(weight, index, self.mu)
        return self.masked_part(weight, index)

    def takes(self, index: int, parameter: Tensor, *, gathered: bool) -> bool:
        """See `Masks.takes`."""
        return spread(self, index, parameter, gathered=gathered)

    def masked_part(self, weight: Tensor, index: int) -> Tensor:
        """The same of the weight, or this rank's part of it."""
        if self.compact is not None and self.compact.has(index, weight):
            return self.compact.shown(weight, index)
        if self.kept is not None or self.still is not None:
            found = self._standing(weight, index)
        else:
            vectors = {name: getattr(self, name) for name in MaskScalars._fields}
            bits: Tensor = getattr(self, f"bits_{index}")
            found = self.softly(weight, index, bits, vectors)
        for around in (self.candidates, self.units):
            found = found if around is None else around.opened(found, index)
        return found

    def _standing(self, weight: Tensor, index: int) -> Tensor:
        mu, through, kept = self.mu, self.through, self.kept
        if kept is not None:
            grows = not is_compiling() and kept.wanted  # compilers would ask again
            mask, reach = kept.mask(index), kept.reach(index)
            return kept_weight(weight, mask, reach, mu, through, index, grows)
        assert self.still is not None
        found = kept_weight(weight, self.still[index], None, mu, through, index)
        return found if self.lasting is None else self.lasting.applied(found, index)

    def softly(
        self, weight: Tensor, index: int, bits: Tensor, vectors: Vectors
    ) -> Tensor:
        """The weight under a hard mask and the soft mask of these parameters."""
        rule = MaskScalars(*(vectors[name] for name in MaskScalars._fields))
        granularity, op = self.rules[index]
        if granularity == "unstructured":
            own = not is_compiling() and self.stood[index]() is weight
            return masked_weight(weight, bits, *rule, index, own)
        return masked_groups(weight, bits, rule, index, granularity, op)

    def vectors(self) -> dict[str, Tensor]:
        """The mask parameters as they are."""
        bits = tuple(f"bits_{i}" for i in range(len(self.names)))
        return {n: t.detach() for n, t in self.held().items() if n not in bits}

    def writes(self, vectors: Vectors) -> list[Callable[[], object]]:
        """What makes these the mask parameters; none of it can fail."""
        self.stood = [weakref.ref(weight) for weight in self.weights()]
        return [
            functools.partial(getattr(self, name).copy_, value)
            for name, value in vectors.items()
        ]

    def _arm(self) -> None:
        """Makes ``mu`` a leaf that collects its gradient and reports it."""
        self.mu = mu = self.mu.detach().requires_grad_(True)
        state = weakref.ref(self)

        def collected(total: Tensor) -> None:
            # the gradient itself, not mu.grad: what a backward pass that failed
            # has left there must not count
            live, number = state(), backward_number()
            if live is None or number < 0:
                return
            known = live.totals
            if number in known:
                known[number] = known[number] + total
                return
            known[number] = total
            after_backward(functools.partial(live._couple, number))

        self.totals: dict[int, Tensor] = {}
        mu.register_hook(collected)

    def _couple(self, number: int) -> None:
        total = self.totals.pop(number)
        self.mu.grad = None
        complete(self, number, total)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> SparseState:
        super()._apply(fn, recurse)
        if self.still is not None:
            self.still = self.hard()
        self._arm()
        return self

    def _save_to_state_dict(self, into: Any, prefix: str, *rest: Any) -> None:
        super()._save_to_state_dict(into, prefix, *rest)
        stored(self, into, prefix)
        tell(self, into, prefix)

    def _load_from_state_dict(self, found: Any, prefix: str, *rest: Any) -> None:
        unstored(self, found, prefix)
        hear(self, found, prefix)
        super()._load_from_state_dict(found, prefix, *rest)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._arm()
