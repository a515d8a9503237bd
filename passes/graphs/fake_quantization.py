"""Fake quantization of weights: where it leaves a zero a zero."""

from __future__ import annotations

from torch import Tensor, fx

from sparsefx.torch_internals import FakeTensor
from sparsefx.tracing.operations import called

_CALLS = ("fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine")
_FUSED = "fused_moving_avg_obs_fake_quant"
_SYMMETRIC = 12  # of the fused call: its zero point is 0 where numbers have a sign


def keeps_zeros(node: fx.Node) -> bool:
    r"""Whether a node quantizes its input and a zero comes out as zero.

    What comes out is :math:`s\,(\mathrm{clamp}(\mathrm{round}(w / s) + z,\ a,\ b) - z)`
    with a scale `s`, a zero point `z` and numbers from `a` to `b` around it; zeros stay
    where `z` is 0.

    Example:
        >>> graph = fx.Graph()
        >>> w = graph.get_attr("w")
        >>> import torch
        >>> def quantized(zero_point):
        ...     return graph.call_function(torch.fake_quantize_per_tensor_affine,
        ...                                (w, 0.1, zero_point, -128, 127))
        >>> keeps_zeros(quantized(0)), keeps_zeros(quantized(3))
        (True, False)
    """
    if called(node) == _FUSED:
        low, *_, symmetric = node.args[8 : _SYMMETRIC + 1] or (0, False)
        return symmetric is True and isinstance(low, int) and low < 0
    if called(node) not in _CALLS or len(node.args) < 3:
        return False
    point = node.args[2]
    value = point.meta.get("val") if isinstance(point, fx.Node) else point
    if isinstance(value, FakeTensor):
        return False
    if isinstance(value, Tensor):
        return bool((value == 0).all())
    return bool(value == 0)
