"""Which weights are stored as their kept entries, and how these move with the masks.

A parameter stays the same object: what it holds are its kept entries, row by row, or
all of them while somebody needs the whole (`Compact.widen`). An optimizer so goes on
with it, and its moments move as the entries do.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsefx.kernels.support_products import Layout, layout
from sparsefx.masking.compact_weight import Entries, column, compact_weight, dense

if TYPE_CHECKING:
    from sparsefx.masking.sparse_state import SparseState

_KEY = "compact"  # under which a checkpoint says which they are
_Seen = tuple["weakref.ref[Tensor]", int]  # a mask, and its version


class Compact:
    """The weights of a model that are stored as their kept entries.

    A weight is so stored if it is among `sites` and its parameter has not the mask's
    shape.

    Attributes:
        able: numbers of the sites that may be.
        sites: those that are.
        slower: by site, the density at which that was found to be slower.
    """

    def __init__(self, state: SparseState, able: Iterable[int]) -> None:  # noqa: D107
        self.state = state
        self.able = frozenset(able)
        self.sites: frozenset[int] = frozenset()
        self.slower: dict[int, float] = {}
        self._layouts: dict[int, tuple[_Seen, Layout]] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Compact:
        """A copy of the model has whole weights: averages know nothing of places."""
        for index, weight in enumerate(self.state.raw()):
            twin = copy.deepcopy(weight, memo)
            if twin is not weight and self.has(index, weight):
                give(twin, dense(weight.detach(), self.mask(index)), None)
        return Compact(copy.deepcopy(self.state, memo), ())

    def has(self, index: int, weight: Tensor) -> bool:
        """Whether that is a site's kept entries."""
        return index in self.sites and weight.shape != self.mask(index).shape

    def mask(self, index: int) -> Tensor:
        """Where a site's entries stand."""
        assert self.state.kept is not None, "masks are stored"
        return self.state.kept.mask(index)

    def whole(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """The dense weights; those that are stored otherwise are made anew."""
        return [
            dense(weight.detach(), self.mask(index))
            if self.has(index, weight)
            else weight
            for index, weight in enumerate(weights)
        ]

    def shown(self, values: Tensor, index: int) -> Tensor:
        """What layers see of kept entries."""
        state, mask = self.state, self.mask(index)
        assert state.kept is not None, "masks are stored"
        where = partial(self.layout_of, index)
        return compact_weight(Entries(values, mask, state.mu, state.kept, index, where))

    def layout_of(self, index: int) -> Layout:
        """Where a site's entries stand, for the kernels; made anew when they move."""
        mask = self.mask(index)
        known = self._layouts.get(index)
        if known is None or known[0][0]() is not mask or known[0][1] != mask._version:
            known = (weakref.ref(mask), mask._version), layout(mask)
            self._layouts[index] = known
        return known[1]

    # -- whole for a while -------------------------------------------------------------

    @torch.no_grad()
    def widen(self, owner: nn.Module | None = None) -> list[int]:
        """Makes parameters whole, of one module or all; which ones those were."""
        found = []
        for index, weight in enumerate(self.state.raw()):
            own = owner is None or any(m is owner for m, _ in self.state.owners[index])
            if own and self.has(index, weight):
                grad, mask = weight.grad, self.mask(index)
                grad = None if grad is None else dense(grad, mask)
                give(weight, dense(weight.detach(), mask), grad)
                found.append(index)
        return found

    @torch.no_grad()
    def narrow(self) -> None:
        """Makes parameters that are whole their kept entries again."""
        masks = self.state.hard()
        for write in self.moved(masks, [torch.zeros_like(mask) for mask in masks]):
            write()

    def written(self, owner: nn.Module, into: dict[str, Any], prefix: str) -> None:
        """Puts whole weights into a module's state dict."""
        for index, weight in enumerate(self.state.raw()):
            for module, name in self.state.owners[index]:
                if module is owner and self.has(index, weight):
                    into[prefix + name] = dense(weight.detach(), self.mask(index))

    # -- masks that move ---------------------------------------------------------------

    @torch.no_grad()
    def moved(
        self,
        masks: Sequence[Tensor],
        fresh: Sequence[Tensor],
        optimizer: Optimizer | None = None,
        more: Iterable[int] = (),
    ) -> list[Callable[[], object]]:
        """What makes weights, gradients and the optimizer's state those of new masks.

        Entries that were kept before take theirs along; all others begin at zero.

        Args:
            masks: of all sites, from now on.
            fresh: kept entries that begin at zero though they were kept before.
            optimizer: whose state moves.
            more: sites that are stored as kept entries from now on.
        """
        sites = self.sites | frozenset(more)
        writes: list[Callable[[], object]] = [partial(setattr, self, "sites", sites)]
        weights = self.state.raw()
        for index in sorted(sites):
            weight, before, after = weights[index], self.mask(index), masks[index]
            new = fresh[index]
            same = torch.equal(before, after) and not bool(new.any())
            if same and weight.shape != before.shape:
                continue
            move = _Move.between(before, after, new, weight.shape == before.shape)
            grad = None if weight.grad is None else move(weight.grad)
            writes.append(partial(give, weight, move(weight.detach()), grad))
            held = {} if optimizer is None else optimizer.state.get(weight, {})
            writes += [
                partial(held.__setitem__, name, move(value))
                for name, value in held.items()
                if isinstance(value, Tensor) and value.shape == weight.shape
            ]
        return writes


def tell(state: SparseState, into: dict[str, Any], prefix: str) -> None:
    """Tells a checkpoint which weights are stored as kept entries.

    The optimizer's state, which is not ours to save, has their shapes.
    """
    if state.compact is not None:
        numbers = torch.tensor(sorted(state.compact.sites), dtype=torch.int64)
        into[prefix + _KEY] = numbers


def hear(state: SparseState, found: dict[str, Any], prefix: str) -> None:
    """Takes over what a checkpoint tells; nothing where all weights are whole."""
    numbers = found.pop(prefix + _KEY, None)
    if state.compact is not None and numbers is not None:
        own = copy.copy(state.compact)  # the old one stays as it is: loading may fail
        own.sites = own.able & frozenset(numbers.tolist())
        state.compact = own


class _Move(NamedTuple):
    """From the entries that were stored to those that are.

    Attributes:
        source: where each was, or anything.
        known: whether it was anywhere.
    """

    source: Tensor
    known: Tensor

    @classmethod
    def between(cls, before: Tensor, after: Tensor, fresh: Tensor, all_: bool) -> _Move:
        """Of two masks; `all_` if everything was stored."""
        places = after.reshape(-1).nonzero().view(-1)
        known = (before & ~fresh).reshape(-1)[places]
        if all_:
            return cls(places, known)
        numbers = before.reshape(-1).cumsum(0) - 1
        return cls(numbers[places].clamp_(min=0), known)

    def __call__(self, tensor: Tensor) -> Tensor:
        if not tensor.numel():
            return column(tensor.new_zeros(len(self.source)))
        where = self.source.to(tensor.device), self.known.to(tensor.device)
        return column(torch.where(where[1], tensor.reshape(-1)[where[0]], 0))


def give(leaf: Tensor, data: Tensor, grad: Tensor | None) -> None:
    """Gives a parameter other entries, and a gradient of them, in any shape.

    What collects its gradient remembers a shape, also where an old graph keeps it
    alive; another type in between makes torch forget it.

    Example:
        >>> w = nn.Parameter(torch.ones(3))
        >>> old = (2 * w).sum()  # keeps what collects gradients of shape (3,)
        >>> give(w, torch.ones(1), None)
        >>> w.sum().backward()
        >>> w.grad
        tensor([1.])
    """
    leaf.grad = None
    other = torch.float32 if data.dtype is torch.float64 else torch.float64
    leaf.data = data.new_empty(0, dtype=other)
    leaf.data = data
    leaf.grad = grad
