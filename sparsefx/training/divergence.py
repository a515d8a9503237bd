r"""How far a model's outputs are from the dense ones, in the unit of its own kind.

Near the dense outputs a divergence is ``1/2 d' M d`` of the change ``d``. Gradients of
``v' o``, of outputs ``o`` and random ``v`` with covariance ``M``, have as their mean
squares what a change of each layer's outputs costs: the diagonal of the Gauss-Newton
matrix.

Floating outputs count by squares. Where all lie in [0, 1] they are probabilities, whose
Kullback-Leibler divergences count: of each, or of rows that sum to 1. A tensor named
``logits`` is the softmax of its last dimension, and counts alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsefx.errors import MaskError
from sparsefx.tracing.preserve import tensors_of

_SMALL = 1e-6


def divergence(out: Any, dense: Any, valid: Tensor | None = None) -> Tensor:
    """How far outputs are from the dense ones, summed over everything that counts.

    Args:
        out: a model's output, of any structure; a ``loss`` in it does not count.
        dense: what the dense model answers.
        valid: (batch, tokens), bool: what counts in outputs of these dimensions.

    Raises:
        MaskError: the outputs do not have the same shapes.

    Example:
        >>> divergence(torch.tensor([[1.0, 3.0]]), torch.tensor([[-1.0, 3.0]]))
        tensor(2.)
    """
    found = [far.sum() for far, _ in _rows(out, dense, valid)]
    return torch.stack(found).sum() if found else torch.zeros(())


def mean_divergence(out: Any, dense: Any, valid: Tensor | None = None) -> Tensor:
    """The same, where each output counts by its mean row: all but its last dimension.

    Example:
        >>> mean_divergence(torch.full((5, 2), 3.0), torch.full((5, 2), 2.0))
        tensor(1.)
    """
    rows = _rows(out, dense, valid)
    found = [far.sum() / count.sum().clamp_min(1) for far, count in rows]
    return torch.stack(found).sum() if found else torch.zeros(())


def _rows(out: Any, dense: Any, valid: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Of each output, how far its rows are, and whether they count.

    Nothing here depends on values, so that compilers can follow.
    """
    x, y = _logits(out), _logits(dense)
    logits = isinstance(x, Tensor) and isinstance(y, Tensor)
    found, wanted = ([x], [y]) if logits else (_floats(out), _floats(dense))
    given, asked = ([tuple(x.shape) for x in some] for some in (found, wanted))
    if given != asked:
        raise MaskError(
            f"floating outputs are of the shapes {given}, those of the dense model of "
            f"{asked}; give a dense model with the same outputs"
        )
    rows, apart = [], _softmax if logits else _apart
    for pair in zip(found, wanted, strict=True):
        x, y = (z.to(torch.promote_types(z.dtype, torch.float32)) for z in pair)
        x, y = (z if z.ndim > 1 else z.reshape(-1, 1) for z in (x, y))
        inside = torch.ones_like(y, dtype=torch.bool)
        if valid is not None and y.shape[:2] == valid.shape:
            inside &= valid.view(*valid.shape, *[1] * (y.ndim - 2))
        counts = inside.any(-1)
        far = apart(torch.where(inside, x, y), y)
        rows.append((torch.where(counts, far, 0.0), counts))
    return rows


def _softmax(x: Tensor, y: Tensor) -> Tensor:
    found, wanted = x.log_softmax(-1), y.log_softmax(-1)
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1)


def _apart(x: Tensor, y: Tensor) -> Tensor:
    shares, rows = _are_shares(y), _sum_to_one(y)
    p, q = x.clamp(_SMALL, 1 - _SMALL), y.clamp(_SMALL, 1 - _SMALL)
    one = (q * (q / p).log()).sum(-1)
    other = ((1 - q) * ((1 - q) / (1 - p)).log()).sum(-1)
    likely = torch.where(rows, one, one + other)
    return torch.where(shares, likely, (x - y).square().sum(-1) / 2)


def probe(
    dense: Any, valid: Tensor | None, generator: torch.Generator
) -> Tensor | None:
    """A random combination ``v' o`` of outputs; None where none is floating.

    Args:
        dense: the dense model's output, with its graph.
        valid: as for `divergence`.
        generator: of the CPU.

    Example:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> probe(2 * x - 3, None, torch.Generator().manual_seed(0)).shape
        torch.Size([])
    """

    def normal(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x)

    logits = _logits(dense)
    if isinstance(logits, Tensor):
        kept = counted(logits, valid)
        p = kept.detach().softmax(-1)
        v = p.sqrt() * normal(p)
        return (kept * (v - p * v.sum(-1, keepdim=True))).sum()
    found = []
    for x in _floats(dense):
        y = x.detach()
        spread = torch.ones_like(y)
        if _are_shares(y):
            p = y.clamp(1e-4, 1 - 1e-4)
            spread = (p if _sum_to_one(y) else p * (1 - p)).rsqrt()
        found.append(counted(x * normal(x) * spread, valid).sum())
    return torch.stack(found).sum() if found else None


def entry(out: Any, name: str) -> Any:
    """What an output holds under a name, if it is a mapping or has such an attribute.

    Example:
        >>> entry({"loss": 1.0}, "loss"), entry(torch.ones(2), "loss")
        (1.0, None)
    """
    return out.get(name) if isinstance(out, Mapping) else getattr(out, name, None)


def _logits(out: Any) -> Any:
    return entry(out, "logits")


def _floats(out: Any) -> list[Tensor]:
    own = entry(out, "loss")
    return [x for x in tensors_of(out) if x.is_floating_point() and x is not own]


def counted(x: Tensor, valid: Tensor | None) -> Tensor:
    """The tokens of an output that count; all where ``valid`` does not speak of them.

    Example:
        >>> counted(torch.eye(2)[None], torch.tensor([[True, False]]))
        tensor([[1., 0.]])
    """
    return x[valid] if valid is not None and x.shape[:2] == valid.shape else x


def _are_shares(y: Tensor) -> Tensor:
    return ((y >= 0) & (y <= 1)).all()


def _sum_to_one(y: Tensor) -> Tensor:
    return ((y.sum(-1) - 1).abs() < 1e-3).all()
