r"""What a change of the model's outputs costs: by their own kind, or by a user's loss.

Layers are worth what a change of their outputs does to ``loss(o, t)``, whose first
derivative is 0 where ``o = t``. With its second derivatives ``M`` there and random
normal ``z``, gradients of ``(M^1/2 z)' o`` have as their mean squares the diagonal of
the Gauss-Newton matrix. The root is multiplied by Lanczos' method, which needs products
with ``M`` alone; of the sum of squares it is exact at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError
from sparsefx.pruning.output_change import output_change
from sparsefx.torch_internals import tree_flatten, tree_unflatten
from sparsefx.tracing.example_calls import Call
from sparsefx.tracing.object_trees import box, unbox
from sparsefx.training.divergence import divergence, probe

Loss = Callable[[Any, Any], Tensor]
_STEPS = 8  # of Lanczos' method
_TINY = 1e-6


@dataclass(frozen=True, slots=True)
class Damage:
    """What a change of outputs costs.

    Attributes:
        of: of an output, the dense one, and the tokens that count: a number.
        probe: of a dense output, the tokens that count, and a random generator: a
            combination of its entries whose gradients' mean squares say what they are
            worth; None where nothing has a gradient.
        mean: of the dense and the pruned model, calls, and their tokens: a number to
            report.
        is_loss: it is a user's.
    """

    of: Callable[[Any, Any, Tensor | None], Tensor]
    probe: Callable[[Any, Tensor | None, torch.Generator], Tensor | None]
    mean: Callable[
        [nn.Module, nn.Module, Sequence[Call], Sequence[Tensor | None]], float
    ]
    is_loss: bool = False


BY_KIND = Damage(divergence, probe, output_change)


def by_loss(loss: Loss) -> Damage:
    """The damage that a loss of outputs and dense outputs says.

    Example:
        >>> found = by_loss(lambda out, dense: (out - dense).square().mean())
        >>> found.of(torch.ones(2, 3), torch.zeros(2, 3), None)
        tensor(1.)
    """

    def of(out: Any, dense: Any, valid: Tensor | None) -> Tensor:
        found = loss(out, dense)
        if not isinstance(found, Tensor) or found.numel() != 1:
            what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else found
            raise MaskError(
                f"loss returns {what}; it takes the output and the dense model's, and "
                "returns a tensor of one number"
            )
        return found.reshape(())

    def drawn(
        dense: Any, valid: Tensor | None, generator: torch.Generator
    ) -> Tensor | None:
        leaves, spec = tree_flatten(box(dense))
        places = [i for i, x in enumerate(leaves) if _floating(x)]
        if not places:
            return None
        own = [leaves[i].detach().requires_grad_() for i in places]
        moved = list(leaves)
        for i, x in zip(places, own, strict=True):
            moved[i] = x
        still = [x.detach() if _floating(x) else x for x in leaves]
        out, wanted = (unbox(tree_unflatten(x, spec)) for x in (moved, still))
        normal = [torch.randn(x.shape, generator=generator).to(x) for x in own]
        rooted = _rooted(lambda: of(out, wanted, valid), own, normal)
        found = [(leaves[i] * v).sum() for i, v in zip(places, rooted, strict=True)]
        return torch.stack(found).sum()

    def mean(
        dense: nn.Module,
        pruned: nn.Module,
        calls: Sequence[Call],
        valid: Sequence[Tensor | None],
    ) -> float:
        with torch.no_grad():
            found = [float(of(pruned(*a, **k), dense(*a, **k), None)) for a, k in calls]
        return sum(found) / len(found)

    return Damage(of, drawn, mean, is_loss=True)


def _rooted(
    loss: Callable[[], Tensor], at: Sequence[Tensor], normal: Sequence[Tensor]
) -> list[Tensor]:
    """``M^1/2 z`` for the second derivatives ``M`` of a loss; negative ones are 0."""
    with torch.enable_grad():
        value = loss()
        slopes: Sequence[Tensor | None] = [None] * len(at)
        if value.requires_grad:
            slopes = torch.autograd.grad(
                value, at, create_graph=True, allow_unused=True
            )
    known = [(s, i) for i, s in enumerate(slopes) if s is not None and s.requires_grad]
    sizes = [x.numel() for x in at]

    def product(v: Tensor) -> Tensor:
        parts = v.split(sizes)
        along = [parts[i].view_as(s) for s, i in known]
        found = torch.autograd.grad(
            [s for s, _ in known], at, along, retain_graph=True, allow_unused=True
        )
        pairs = zip(found, at, strict=True)
        return torch.cat(
            [
                torch.zeros_like(x).flatten() if f is None else f.flatten()
                for f, x in pairs
            ]
        )

    start = torch.cat([x.flatten() for x in normal])
    found = _root_times(product, start) if known else torch.zeros_like(start)
    if not bool(found.any()) or not bool(found.isfinite().all()):
        raise MaskError(
            "loss has no finite second derivatives where outputs are the dense ones, "
            "so that it cannot say what layers are worth; give a smooth one, such as "
            "(out - dense).square().mean()"
        )
    return [v.view_as(x) for v, x in zip(found.split(sizes), at, strict=True)]


def _root_times(product: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Lanczos' approximation of ``M^1/2 start``, orthogonal to rounding."""
    size = start.norm()
    basis, diagonal, beside = [start / size], [], []
    for _ in range(_STEPS):
        new = product(basis[-1])
        whole = new.norm()
        diagonal.append(float(new @ basis[-1]))
        for vector in (*basis, *basis):
            new = new - (new @ vector) * vector
        length = float(new.norm())
        if length <= _TINY * float(whole) or len(diagonal) == _STEPS:
            break
        beside.append(length)
        basis.append(new / length)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        off = torch.diag(torch.tensor(beside, dtype=torch.float64), 1)
        matrix = matrix + off + off.mT
    values, vectors = torch.linalg.eigh(matrix)
    weights = vectors @ (values.clamp_min(0.0).sqrt() * vectors[0])
    found: Tensor = torch.stack(basis, 1) @ weights.to(start) * size
    return found


def _floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
