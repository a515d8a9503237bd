"""What a change of each output of each layer costs the model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError
from sparsefx.pruning.damage import BY_KIND, Damage
from sparsefx.pruning.products import Product, ProductMode
from sparsefx.tracing.example_calls import Call


class _Slopes(ProductMode):
    """Adds up squared gradients of the products with some weights, by output."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.valid: Tensor | None = None
        self.found: dict[str, Tensor] = {}
        self.leaves: list[Tensor] = []

    def met(self, product: Product, call: Callable[[], Any]) -> Any:
        out = call()
        if not out.requires_grad:  # gradients need go no further back than here
            self.leaves.append(out.detach().requires_grad_())
            out = self.leaves[-1].clone()  # which may be written in place
        out.register_hook(partial(self._add, product, self.valid))
        return out

    def _add(self, product: Product, valid: Tensor | None, slope: Tensor) -> None:
        name, form = product.name, product.form
        if product.window:
            rows = slope.transpose(0, -len(form.shape[2:]) - 1).flatten(1).mT
        elif valid is not None and slope.shape[:-1] == valid.shape:
            rows = slope[valid]
        else:
            rows = slope.reshape(-1, slope.shape[-1])
        sums = rows.float().square().sum(0).reshape(form.groups, -1)
        self.found[name] = self.found[name] + sums if name in self.found else sums


def importances(
    model: nn.Module,
    calls: Sequence[Call],
    valid: Sequence[Tensor | None],
    weights: Mapping[str, Tensor],
    seed: int,
    damage: Damage = BY_KIND,
) -> dict[str, Tensor]:
    """Squared gradients of a random combination of outputs, summed over rows.

    Half the sum of ``importance * mean squared change`` of a layer's outputs is about
    what it costs.

    Args:
        model: run as it is; its parameters get no gradients.
        calls: of the model.
        valid: of each call, (batch, tokens): the tokens that count.
        weights: by name.
        seed: of the combinations.
        damage: what a change of the outputs costs.

    Returns:
        By name (groups, outputs); of a weight that no gradient reaches, nothing.

    Raises:
        MaskError: a gradient is NaN or infinite.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> call = (torch.ones(50, 3),), {}
        >>> found = importances(net, [call], [None], {"w": net.weight}, seed=0)
        >>> bool((found["w"] / 50 - 1).abs().max() < 0.5)  # M is the identity
        True
    """
    generator = torch.Generator().manual_seed(seed)
    watch = _Slopes(weights)
    with _still(model), torch.enable_grad():
        for (args, kwargs), mask in zip(calls, valid, strict=True):
            watch.valid, watch.leaves = mask, []
            with watch:
                out = model(*args, **kwargs)
            value = damage.probe(out, mask, generator)
            if value is not None and value.requires_grad:
                torch.autograd.grad(value, watch.leaves, allow_unused=True)
    for name, sums in watch.found.items():
        if not bool(sums.isfinite().all()):
            raise MaskError(
                f"gradients of the outputs by what {name} makes are NaN or infinite: "
                'nothing says what it is worth; use method="activation" and '
                'allocation="uniform", or other batches'
            )
    return watch.found


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """No parameter needs gradients inside."""
    learning = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
