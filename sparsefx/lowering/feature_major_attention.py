"""Attention on feature-major activations, as sparse products leave them.

torch's fused kernel wants each token's features in one piece. Between two sparse
products they are not, and copying them there and back costs more than the kernel saves
on a few hundred tokens. Two products of matrices and a softmax need no copy.

Shapes: B batch, H heads, T queries, S keys, D features of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional

from sparsefx.lowering.timing import interleaved

MOST = 512  # tokens; beyond, the T x S matrix costs more than copies
_CLOSE = 1e-5
_WIN = 1.05


def feature_major_attention(
    q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, scale: float | None = None
) -> Tensor:
    """``softmax(q k' scale) v`` with every factor and the result feature-major.

    Args:
        q_BHTD: queries.
        k_BHSD: keys.
        v_BHSD: values.
        scale: of the products; ``1 / sqrt(D)`` if None.

    Example:
        >>> q, k, v = torch.randn(3, 1, 2, 5, 4)
        >>> wanted = functional.scaled_dot_product_attention(q, k, v)
        >>> torch.allclose(feature_major_attention(q, k, v), wanted, atol=1e-6)
        True
    """
    scale = q_BHTD.shape[-1] ** -0.5 if scale is None else scale
    weights_BHST = torch.softmax(k_BHSD @ (q_BHTD.mT * scale), -2)
    return (v_BHSD.mT @ weights_BHST).mT


@torch.no_grad()
def is_faster(node: fx.Node, q: Tensor, k: Tensor, v: Tensor, rounds: int) -> bool:
    """Whether an attention node runs faster that way on feature-major activations.

    Args:
        node: a call of ``scaled_dot_product_attention``.
        q: its queries.
        k: its keys.
        v: its values.
        rounds: samples of each timing.

    Example:
        >>> q = torch.randn(1, 1, 1024, 8)
        >>> node = fx.Graph().call_function(
        ...     functional.scaled_dot_product_attention, (q, q, q))
        >>> is_faster(node, q, q, q, 1)  # too many tokens
        False
    """
    plain = len(node.args) == 3 and not set(node.kwargs) - {"scale"}
    usual = q.ndim == k.ndim == v.ndim == 4 and q.device.type == "cpu"
    if not (plain and usual) or max(q.shape[2], k.shape[2]) > MOST:
        return False
    if q.dtype != torch.float32 or q.shape[:2] != k.shape[:2]:
        return False
    scale = node.kwargs.get("scale")
    number = None if scale is None else float(str(scale))
    q, k, v = (x.mT.contiguous().mT for x in (q, k, v))

    def fused() -> Tensor:
        out = functional.scaled_dot_product_attention(q, k, v, scale=number)
        return out.mT.contiguous()

    def ours() -> Tensor:
        return feature_major_attention(q, k, v, number).mT

    wanted = fused()
    if (ours() - wanted).abs().max() > _CLOSE * wanted.abs().max():
        return False
    times = interleaved({"fused": fused, "ours": ours}, q.device, rounds)
    return times["fused"] > _WIN * times["ours"]
