"""How one layer is pruned: masks from energies, and what becomes of kept weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsefx.pruning.admm import admm
from sparsefx.pruning.choice import Choice
from sparsefx.pruning.enumerated import Enumerated, can_enumerate
from sparsefx.pruning.obs import obs
from sparsefx.pruning.quadratic import Quadratic

Solve = Callable[[Quadratic, Choice], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Method:
    """A way to prune a layer.

    Attributes:
        name: of the method.
        solve: scaled weights, 0 where the mask is, and the mask, of a layer and the
            choice that its count and granularity leave.
        fits: it changes the weights that it keeps.
    """

    name: str
    solve: Solve
    fits: bool = False


def by_magnitude(layer: Quadratic, choose: Choice) -> tuple[Tensor, Tensor]:
    """Keeps the weights of largest magnitude, as they are."""
    mask = choose(layer.back(layer.target).square())
    return layer.target * mask, mask


def by_activation(layer: Quadratic, choose: Choice) -> tuple[Tensor, Tensor]:
    """Keeps the weights of largest magnitude times root mean square of the input.

    Source: Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large
    Language Models", ICLR 2024 (arXiv 2306.11695), where outputs share nothing.
    """
    energy = (layer.target / layer.roots).square()
    extra = layer.inputs.ridge[:, None] / layer.inputs.scale.square()
    mask = choose(energy * (1 - extra)[:, None].clamp_min(0.0))
    return layer.target * mask, mask


def by_enumeration(otherwise: Solve) -> Solve:
    """The best mask there is where all can be tried, else another method's."""

    def solve(layer: Quadratic, choose: Choice) -> tuple[Tensor, Tensor]:
        if not can_enumerate(layer, choose):
            return otherwise(layer, choose)
        weight, mask = Enumerated.of(layer).solve(choose.count)
        return weight.to(layer.target), mask

    return solve


METHODS: Mapping[str, Method] = {
    "magnitude": Method("magnitude", by_magnitude),
    "activation": Method("activation", by_activation),
    "obs": Method("obs", by_enumeration(obs), fits=True),
    "admm": Method("admm", by_enumeration(admm), fits=True),
}
