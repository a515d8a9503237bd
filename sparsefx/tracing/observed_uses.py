"""What weights are multiplied with, seen while a model runs: for parts without a graph.

Loops over experts and other Python that decides by values cannot be recorded, but
their products can be counted. The counts are those of the example inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn

from sparsefx.torch_internals import TorchFunctionMode, tree_flatten
from sparsefx.tracing.operations import KEEPING, SCALING, plain

# position of the weight, and of what it is multiplied with
_PRODUCTS: Mapping[str, tuple[int, int]] = {
    "linear": (1, 0),
    "embedding": (1, 0),
    "bmm": (1, 0),
    "mm": (1, 0),
    "matmul": (1, 0),
    "__matmul__": (1, 0),
    "addmm": (2, 1),
    "baddbmm": (2, 1),
    "einsum": (2, 1),
    "_grouped_mm": (1, 0),
    "grouped_mm": (1, 0),
    "conv1d": (1, 0),
    "conv2d": (1, 0),
    "conv3d": (1, 0),
}


@dataclass(frozen=True, slots=True)
class Observed:
    """How a weight was used.

    Attributes:
        op: the operation that multiplied it first.
        macs: multiply-accumulates of all products with it.
    """

    op: str
    macs: float


class WeightWatch(TorchFunctionMode):
    """Follows parameters through views into products while it is active."""

    def __init__(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Watches the given parameters, by name."""
        super().__init__()
        self._names = {id(value): name for name, value in weights}
        self._alive: list[Tensor] = []
        self.found: dict[str, Observed] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Notes what a call does with a watched weight."""
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        given = [*args, *(kwargs or {}).values()]
        source = self._names.get(id(given[0])) if given else None
        if plain(name) in KEEPING and source:
            self._follow(out, source)
        elif plain(name) in SCALING and isinstance(out, Tensor):
            for part in given:
                weight = self._names.get(id(part))
                if weight and part.shape == out.shape:
                    self._follow(out, weight)
        elif name in _PRODUCTS and isinstance(out, Tensor):
            self._note(name, tree_flatten(given)[0], out)
        return out

    def _follow(self, out: Any, source: str) -> None:
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, Tensor):
                self._names[id(leaf)] = source
                self._alive.append(leaf)  # its id must not be given anew

    def _note(self, op: str, given: list[Any], out: Tensor) -> None:
        tensors = [value for value in given if isinstance(value, Tensor)]
        weights = [t for t in tensors if id(t) in self._names]
        if len(weights) != 1:
            return
        weight = weights[0]
        name = self._names[id(weight)]
        known = self.found.get(name, Observed(op, 0.0))
        macs = 0.0 if op == "embedding" else _macs(op, tensors, weight, out)
        self.found[name] = Observed(known.op, known.macs + macs)


def _macs(op: str, tensors: list[Tensor], weight: Tensor, out: Tensor) -> float:
    if op.startswith("conv"):
        return out.numel() * prod(weight.shape[1:])
    other = next(t for t in tensors if t is not weight)
    if op == "einsum":  # every weight meets each value of the indices it lacks
        return weight.numel() * out.numel() / max(weight.shape[-1], 1)
    return float(out.numel() * other.shape[-1])


def watch(module: nn.Module, names: Iterable[str]) -> WeightWatch:
    """A mode that watches the parameters of those names.

    Example:
        >>> import torch
        >>> layer = nn.Linear(4, 3)
        >>> with watch(layer, ["weight"]) as seen:
        ...     _ = torch.ones(2, 4) @ layer.weight.t()
        >>> seen.found
        {'weight': Observed(op='matmul', macs=24.0)}
    """
    parameters = dict(module.named_parameters())
    return WeightWatch((name, parameters[name]) for name in names)
