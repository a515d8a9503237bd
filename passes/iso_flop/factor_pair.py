"""A layer as two: the first to a middle width, the second from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import fx

from sparsefx.passes.iso_flop.layer_rewrite import LayerRewrite
from sparsefx.passes.iso_flop.replaceable_layers import LayerSite

FACTORS = ("factor_in.weight", "factor_out.weight")
_CONVS = {"1": F.conv1d, "2": F.conv2d, "3": F.conv3d}


def factor_shapes(
    site: LayerSite, width: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the two weights; the factor at the larger grid is 1x1.

    Where the first factor carries kernel and stride, both run at the same positions,
    and so they do where the second one is a transposed convolution: each kept entry
    then costs what an entry of the dense weight did.
    """
    inputs, outputs, _ = site.sizes
    kernel = site.shape[2:]
    ones = (1,) * len(kernel)
    if site.transposed:
        return (width, inputs, *ones), (width, outputs, *kernel)
    return (width, inputs, *kernel), (outputs, width, *ones)


def factor_calls(
    work: LayerRewrite,
    site: LayerSite,
    call: fx.Node,
    names: Sequence[str],
    bias: Any,
) -> tuple[fx.Node, Callable[[fx.Node], fx.Node]]:
    """Writes the first factor's call; gives it, and what writes the second's.

    Args:
        work: the graph under work, at the insertion point.
        site: the layer.
        call: the node that multiplies by its weight.
        names: of the two new weights.
        bias: node of the bias, or None.
    """
    first, last = (work.read(name, call) for name in names)
    small = F.linear if site.op == "linear" else _CONVS[site.op[-2]]
    x: Any = call.args[0] if call.args else call.kwargs["input"]

    def like_dense(x: Any, weight: fx.Node, own_bias: Any) -> fx.Node:
        """The dense layer's call with its stride and padding."""
        twin = work.graph.node_copy(call)
        rest = twin.args[3:]
        kwargs = dict(twin.kwargs)
        for name in ("input", "weight", "bias"):
            kwargs.pop(name, None)
        twin.args = (x, weight, own_bias, *rest)
        twin.kwargs = kwargs
        return twin

    if site.transposed:
        inner = work.graph.call_function(small, (x, first))
        return inner, lambda middle: like_dense(middle, last, bias)
    inner = like_dense(x, first, None)
    return inner, lambda middle: work.graph.call_function(small, (middle, last, bias))
