"""The mask parameters and the step count, registered in the model they belong to.

Everything that training changes is a buffer: `state_dict`, `deepcopy`, `.to()` and
data-parallel wrappers see it; no optimizer does. Masks themselves are not stored,
unless the learner needs that (`sparsefx.masking.kept_masks`).
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError
from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.masking.budget_gradient import couple
from sparsefx.masking.cut_groups import grouping
from sparsefx.masking.kept_masks import KeptMasks, kept_weight
from sparsefx.masking.masked_groups import entries, masked_groups
from sparsefx.masking.masked_weight import masked_weight
from sparsefx.masking.rank_means import mean_over_ranks
from sparsefx.masking.weight_groups import Grouping
from sparsefx.solver.solution import Solution
from sparsefx.torch_internals import after_backward, backward_number

CHILD = "_sparsefx"  # the name under which a model holds its state
Owner = tuple[nn.Module, str]
_FLOATS = ("mu", "slope", "center", "threshold", "price", "spread")
_INTEGERS = ("last", "group")


class SparseState(nn.Module):
    """Mask parameters of all sites; its forward is the identity.

    Attributes:
        names: the sites' parameter names.
        owners: for each site, the modules and attributes that hold its weight.
        rules: for each site, its granularity and what consumes it.
        step: optimizer steps taken, int64.
        mu, slope, center, threshold, through, price, spread: float64, shape (sites,).
        last, group: int64, shape (sites,).
        dual: shared multiplier and beta of the last update, float64, shape (2,).
        binding: what several budgets that are spent ask of each site, see
            `sparsefx.masking.budget_gradient`; float64, shape (budgets, sites).
        multipliers: of each budget, for hard and soft masks; float64, (2, budgets).
        frozen: whether masks no longer move.
        kept: stored masks, or None where the weights and the scalars give them.
        units: gates of units around the weights (`sparsefx.training.mixed_units`), or
            None.
    """

    kept: KeptMasks | None
    units: Any
    step: Tensor
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
    frozen: Tensor

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
        self.names = tuple(names)
        self.__dict__["owners"] = [list(places) for places in owners]
        self.__dict__["rules"] = list(rules)
        self.__dict__["trainer"] = None  # what steps remember
        self.__dict__["on_load"] = None  # called as on_load(state, masks_were_loaded)
        count = len(names)
        device = next(iter(self.weights()), torch.empty(0)).device
        kinds = dict.fromkeys((*_FLOATS, "through"), torch.float64)
        for name, dtype in (kinds | dict.fromkeys(_INTEGERS, torch.int64)).items():
            self.register_buffer(name, torch.zeros(count, dtype=dtype, device=device))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64, device=device))
        dual = torch.tensor([math.nan, math.nan], dtype=torch.float64, device=device)
        self.register_buffer("dual", dual)
        zeros = torch.zeros(budgets, count, dtype=torch.float64, device=device)
        self.register_buffer("binding", zeros)
        unknown = torch.full((2, budgets), math.nan, dtype=torch.float64, device=device)
        self.register_buffer("multipliers", unknown)
        self.register_buffer("frozen", torch.zeros((), dtype=torch.bool, device=device))
        self.kept = KeptMasks(self.weights(), wide) if stored else None
        self.units = None
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]
        self._arm()

    def forward(self, value: Any) -> Any:
        """Returns ``value``: containers that call all their children stay right."""
        return value

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        kind = "frozen" if bool(self.frozen) else "learning"
        return f"{len(self.names)} masked weights, step {int(self.step)}, {kind}"

    # -- weights and masks ---------------------------------------------------------

    def weights(self) -> list[Tensor]:
        """The latent weights, one a site."""
        found = []
        for (owner, attribute), *_ in self.__dict__["owners"]:
            weight = owner._parameters[attribute]
            assert weight is not None
            found.append(weight)
        return found

    def groups(self) -> list[Grouping | None]:
        """How each weight is cut into groups; None where it is unstructured."""
        pairs = zip(self.__dict__["rules"], self.weights(), strict=True)
        return [
            None
            if granularity == "unstructured"
            else grouping(granularity, tuple(weight.shape), op)
            for (granularity, op), weight in pairs
        ]

    @torch.no_grad()
    def values(self) -> list[Tensor]:
        """What the solver ranks: flat weights, or the values of their groups."""
        weights = self.weights()
        if self.units is not None:
            weights = [self.units.opened(w, i) for i, w in enumerate(weights)]
        pairs = zip(self.groups(), weights, strict=True)
        return [entries(groups, weight) for groups, weight in pairs]

    def masked(self, weight: Tensor, index: int) -> Tensor:
        """The weight a layer sees."""
        kept = self.kept
        if kept is not None:
            pair = kept.mask(index), kept.reach(index)
            return kept_weight(weight, *pair, self.mu, self.through, index)
        scalars = {name: getattr(self, name) for name in MaskScalars._fields}
        granularity, op = self.__dict__["rules"][index]
        if granularity == "unstructured":
            found = masked_weight(weight, **scalars, index=index)
        else:
            found = masked_groups(
                weight, **scalars, index=index, granularity=granularity, op=op
            )
        return found if self.units is None else self.units.opened(found, index)

    @torch.no_grad()
    def assign(self, found: Solution, beta: float) -> None:
        """Takes over the scalars of an update; masks are learning."""
        for name in (*_FLOATS, *_INTEGERS):
            self._set(name, [getattr(site, name) for site in found.sites])
        self._set("dual", (found.dual, beta))
        self._set("binding", found.binding)
        self._set("multipliers", found.multipliers)
        self.through.fill_(1.0)
        self.frozen.fill_(False)

    @torch.no_grad()
    def freeze(self) -> None:
        """Bakes the masks into the weights and holds them.

        Kept weights take on their soft mask, dropped ones become zero. From then on
        a weight is kept where it is not zero, and only those get a gradient.
        """
        for index, weight in enumerate(self.weights()):
            weight.copy_(self.masked(weight, index))
        if self.kept is not None:
            self.through.fill_(0.0)
            self.frozen.fill_(True)
            return
        dropping = self.threshold >= 0
        self.threshold.masked_fill_(dropping, 0.0)
        self.last.masked_fill_(dropping, -1)
        for name, value in (("mu", math.inf), ("center", 0.0), ("slope", 1.0)):
            getattr(self, name).fill_(value)
        for name in ("spread", "through"):
            getattr(self, name).fill_(0.0)
        self.frozen.fill_(True)

    def _set(
        self, name: str, values: Sequence[float] | Sequence[Sequence[float]]
    ) -> None:
        buffer = getattr(self, name)
        buffer.copy_(torch.tensor(values, dtype=buffer.dtype))

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
            known = live.__dict__["totals"]
            if number in known:
                known[number] = known[number] + total
                return
            known[number] = total
            after_backward(functools.partial(live._couple, number))

        self.__dict__["totals"] = {}
        mu.register_hook(collected)  # type: ignore[no-untyped-call]

    def _couple(self, number: int) -> None:
        total = self.__dict__["totals"].pop(number)
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

    def get_extra_state(self) -> dict[str, Any]:
        """The sites' names, to refuse a checkpoint of another selection."""
        return {"names": list(self.names)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Checks that the checkpoint masks the same weights."""
        theirs = tuple(state["names"])
        if theirs != self.names:
            odd = sorted(set(theirs) ^ set(self.names))[:5] or ["their order"]
            raise MaskError(
                f"the checkpoint masks {len(theirs)} weights, this model "
                f"{len(self.names)}; they differ in {', '.join(odd)}; transform the "
                "model with the policy the checkpoint was made with"
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        """A checkpoint without masks is a dense one: masks are found anew."""
        found = any(key.startswith(prefix) for key in state_dict)
        if found:
            if prefix + "_extra_state" in state_dict:
                self.set_extra_state(state_dict[prefix + "_extra_state"])
            super()._load_from_state_dict(state_dict, prefix, *rest)
        self.__dict__["found"] = found


def _after_load(state: SparseState, _: Any) -> None:
    """Runs when the masks below have been loaded too."""
    on_load, found = state.__dict__["on_load"], state.__dict__.pop("found", None)
    if on_load is not None and found is not None:
        on_load(state, found)
