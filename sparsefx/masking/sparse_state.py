"""The mask parameters of a model's weights, registered in the model they belong to.

Everything that training changes is a buffer: `state_dict`, `deepcopy`, `.to()` and
data-parallel wrappers see it; no optimizer does. Masks themselves are not stored,
unless the learner needs that (`sparsefx.masking.kept_masks`).
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.masking.budget_gradient import couple
from sparsefx.masking.cut_groups import grouping
from sparsefx.masking.kept_masks import KeptMasks, kept_weight
from sparsefx.masking.masked_groups import entries, masked_groups
from sparsefx.masking.masked_weight import masked_weight
from sparsefx.masking.rank_means import mean_over_ranks
from sparsefx.masking.state_keys import of_dense
from sparsefx.masking.weight_groups import Grouping
from sparsefx.solver.solution import Solution
from sparsefx.torch_internals import after_backward, backward_number

Owner = tuple[nn.Module, str]
Vectors = Mapping[str, Tensor]  # mask parameters of all sites, by name
_FLOATS = ("mu", "slope", "center", "threshold", "price", "spread")
_INTEGERS = ("last", "group")


class Around(Protocol):
    """Gates of units around the weights (`sparsefx.training.units_around`)."""

    def opened(
        self, weight: Tensor, index: int, gates: Sequence[Tensor] | None = None
    ) -> Tensor:
        """A site's weight, or its like, with zeros for what closed units own."""


class SparseState(nn.Module):
    """Mask parameters of all sites; its forward is the identity.

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
        kept: stored masks, or None where the weights and the scalars give them.
        units: gates around the weights, or None.
    """

    kept: KeptMasks | None
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
        budgets: int = 1,
        stored: bool = False,
        wide: bool = False,
    ) -> None:
        super().__init__()
        self.names, self.rules = tuple(names), list(rules)
        self.owners = [list(places) for places in owners]
        count = len(names)
        device = next(iter(self.weights()), torch.empty(0)).device
        kinds = dict.fromkeys((*_FLOATS, "through"), torch.float64)
        for name, dtype in (kinds | dict.fromkeys(_INTEGERS, torch.int64)).items():
            self.register_buffer(name, torch.zeros(count, dtype=dtype, device=device))
        dual = torch.tensor([math.nan, math.nan], dtype=torch.float64, device=device)
        self.register_buffer("dual", dual)
        zeros = torch.zeros(budgets, count, dtype=torch.float64, device=device)
        self.register_buffer("binding", zeros)
        first = math.nan if budgets > 1 and not stored else 0.0  # of several: not known
        shared = torch.full((2, budgets), first, dtype=torch.float64, device=device)
        self.register_buffer("multipliers", shared)
        self.kept = KeptMasks(self.weights(), wide) if stored else None
        self.units: Any = None  # a module that is `Around`
        self._arm()

    def forward(self, value: Any) -> Any:
        """Returns ``value``: containers that call all their children stay right."""
        return value

    # -- weights and masks ---------------------------------------------------------

    def weights(self) -> list[Tensor]:
        """The latent weights, one a site."""
        found: list[Tensor] = []
        for (owner, attribute), *_ in self.owners:
            weight = owner._parameters[attribute]
            assert weight is not None
            found.append(weight)
        return found

    def groups(self) -> list[Grouping | None]:
        """How each weight is cut into groups; None where it is unstructured."""
        return [
            None
            if granularity == "unstructured"
            else grouping(granularity, tuple(weight.shape), op)
            for (granularity, op), weight in zip(
                self.rules, self.weights(), strict=True
            )
        ]

    @torch.no_grad()
    def values(self, gates: Sequence[Tensor] | None = None) -> list[Tensor]:
        """What the solver ranks: flat weights, or the values of their groups.

        Args:
            gates: of the units around them, if not those of the state.
        """
        weights = self.weights()
        if self.units is not None:
            weights = [self.units.opened(w, i, gates) for i, w in enumerate(weights)]
        pairs = zip(self.groups(), weights, strict=True)
        return [entries(groups, weight) for groups, weight in pairs]

    def masked(
        self,
        weight: Tensor,
        index: int,
        vectors: Vectors | None = None,
        gates: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """The weight a layer sees.

        Args:
            weight: of the site.
            index: of the site.
            vectors: mask parameters, if not those of the state.
            gates: of the units around it, likewise.
        """
        kept = self.kept
        if kept is not None:
            pair = kept.mask(index), kept.reach(index)
            return kept_weight(weight, *pair, self.mu, self.through, index)
        names = MaskScalars._fields
        scalars = {
            n: getattr(self, n) if vectors is None else vectors[n] for n in names
        }
        granularity, op = self.rules[index]
        if granularity == "unstructured":
            found = masked_weight(weight, **scalars, index=index)
        else:
            found = masked_groups(
                weight, **scalars, index=index, granularity=granularity, op=op
            )
        if self.units is None:
            return found
        opened: Tensor = self.units.opened(found, index, gates)
        return opened

    # -- what an update changes ----------------------------------------------------

    def vectors(self) -> dict[str, Tensor]:
        """The mask parameters as they are."""
        return {
            name: buffer.detach() for name, buffer in self.named_buffers(recurse=False)
        }

    def solved(self, found: Solution, beta: float) -> dict[str, Tensor]:
        """The mask parameters after an update; masks are learning."""

        def like(name: str, values: Any) -> Tensor:
            buffer = getattr(self, name)
            return torch.tensor(values, dtype=buffer.dtype).to(buffer.device)

        given: dict[str, Any] = {
            name: [getattr(site, name) for site in found.sites]
            for name in (*_FLOATS, *_INTEGERS)
        }
        given["dual"] = (found.dual, beta)
        given |= {"binding": found.binding, "multipliers": found.multipliers}
        vectors = {name: like(name, values) for name, values in given.items()}
        return {**self.vectors(), **vectors, "through": torch.ones_like(self.through)}

    def standing(self, vectors: Vectors) -> dict[str, Tensor]:
        """The mask parameters once masks are baked into the weights and stand still.

        From then on a weight is kept where it is not zero, and only those get a
        gradient.
        """
        if self.kept is not None:
            return {**vectors, "through": torch.zeros_like(self.through)}
        dropping = vectors["threshold"] >= 0
        still = {"mu": math.inf, "center": 0.0, "slope": 1.0, "spread": 0.0}
        return {
            **vectors,
            **{name: torch.full_like(vectors[name], x) for name, x in still.items()},
            "through": torch.zeros_like(self.through),
            "threshold": vectors["threshold"].masked_fill(dropping, 0.0),
            "last": vectors["last"].masked_fill(dropping, -1),
        }

    def writes(self, vectors: Vectors) -> list[Callable[[], object]]:
        """What makes these the mask parameters; none of it can fail."""
        return [
            functools.partial(getattr(self, name).copy_, value)
            for name, value in vectors.items()
        ]

    # -- the coupling term of the gradient -----------------------------------------

    def _arm(self) -> None:
        """Makes ``mu`` a leaf that collects its gradient and reports it."""
        mu = self.mu.detach().requires_grad_(True)
        self._buffers["mu"] = mu
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
        mu.register_hook(collected)  # type: ignore[no-untyped-call]

    def _couple(self, number: int) -> None:
        total = self.totals.pop(number)
        self.mu.grad = None
        if self.kept is not None:
            self.kept.gather(self.weights())
            return
        couple(
            self.weights(),
            mean_over_ranks(total),
            groups=self.groups(),
            mu=self.mu,
            slope=self.slope,
            center=self.center,
            price=self.price,
            shared=self.group,
            spreads=self.spread,
            binding=self.binding,
        )
        if self.units is not None:  # closed units are no part of the budget's share
            for index, weight in enumerate(self.weights()):
                if weight.grad is not None:
                    weight.grad = self.units.opened(weight.grad, index)

    # -- moving, copying, loading --------------------------------------------------

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> SparseState:
        """Follows a move to another device; keeps its precision (`.half()`)."""
        for name, buffer in self._buffers.items():
            assert buffer is not None
            device = fn(torch.empty(0, device=buffer.device)).device
            self._buffers[name] = buffer.detach().to(device)
        for child in self.children():
            child._apply(fn)  # type: ignore[no-untyped-call]
        self._arm()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._arm()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        if not of_dense(state_dict, prefix):  # else masks are found anew
            super()._load_from_state_dict(state_dict, prefix, *rest)
