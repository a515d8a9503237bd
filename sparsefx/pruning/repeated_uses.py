"""Weights that one call multiplies with several times, and all that they meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.pruning.products import Product, ProductMode
from sparsefx.tracing.example_calls import Call

Uses = list[tuple[int, Product]]


class _Watch(ProductMode):
    """Notes the products with some weights."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.found: list[Product] = []

    def met(self, product: Product, call: Callable[[], Any]) -> Any:
        self.found.append(product)
        return call()


@torch.no_grad()
def repeated_uses(
    model: nn.Module, calls: Sequence[Call], weights: Mapping[str, Tensor]
) -> dict[str, Uses]:
    """The products with weights that the first call uses more than once.

    Args:
        model: run as it is, without gradients.
        calls: of the model.
        weights: by name.

    Returns:
        By name, every product with the number of its call; they hold the inputs.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> net, call = nn.Sequential(layer, layer), ((torch.ones(3, 2),), {})
        >>> found = repeated_uses(net, [call, call], dict(layer.named_parameters()))
        >>> {name: [number for number, _ in uses] for name, uses in found.items()}
        {'weight': [0, 0, 1, 1]}
    """
    many = _counted(model, calls[0], weights)
    found: dict[str, Uses] = {name: [] for name in many}
    for number, (args, kwargs) in enumerate(calls if many else ()):
        with _Watch({name: weights[name] for name in many}) as seen:
            model(*args, **kwargs)
        for product in seen.found:
            found[product.name].append((number, product))
    return found


def _counted(model: nn.Module, call: Call, weights: Mapping[str, Tensor]) -> list[str]:
    with _Watch(weights) as seen:
        model(*call[0], **call[1])
    counts = Counter(product.name for product in seen.found)
    return [name for name, count in counts.items() if count > 1]
