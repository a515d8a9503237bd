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

from sparsefx.tracing.preserve import tensors_of

_SMALL = 1e-6


def divergence(out: Any, dense: Any, valid: Tensor | None = None) -> Tensor:
    """How far outputs are from the dense ones, summed over everything that counts.

    Args:
        out: a model's output, of any structure.
        dense: what the dense model answers.
        valid: (batch, tokens), bool: what counts in outputs of these dimensions.

    Example:
        >>> divergence(torch.tensor([[1.0, 3.0]]), torch.tensor([[-1.0, 3.0]]))
        tensor(2.)
    """
    x, y = _logits(out), _logits(dense)
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        found = counted(x, valid).log_softmax(-1)
        wanted = counted(y, valid).log_softmax(-1)
        return F.kl_div(found, wanted, reduction="sum", log_target=True)
    pairs = zip(_floats(out), _floats(dense), strict=True)
    parts = [_of(x, y, valid) for x, y in pairs]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def _of(x: Tensor, y: Tensor, valid: Tensor | None) -> Tensor:
    shares, rows = _are_shares(y), _sum_to_one(y)
    x, y = counted(x, valid), counted(y, valid)
    if not shares:
        return (x - y).square().sum() / 2
    x, y = x.clamp(_SMALL, 1 - _SMALL), y.clamp(_SMALL, 1 - _SMALL)
    found = (y * (y / x).log()).sum()
    return found if rows else found + ((1 - y) * ((1 - y) / (1 - x)).log()).sum()


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


def _logits(out: Any) -> Any:
    return (
        out.get("logits") if isinstance(out, Mapping) else getattr(out, "logits", None)
    )


def _floats(out: Any) -> list[Tensor]:
    return [x for x in tensors_of(out) if x.is_floating_point()]


def counted(x: Tensor, valid: Tensor | None) -> Tensor:
    """The tokens of an output that count; all where ``valid`` does not speak of them.

    Example:
        >>> counted(torch.eye(2)[None], torch.tensor([[True, False]]))
        tensor([[1., 0.]])
    """
    return x[valid] if valid is not None and x.shape[:2] == valid.shape else x


def _are_shares(y: Tensor) -> bool:
    return bool(((y >= 0) & (y <= 1)).all())


def _sum_to_one(y: Tensor) -> bool:
    return y.ndim > 1 and bool(((y.sum(-1) - 1).abs() < 1e-3).all())
