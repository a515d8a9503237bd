"""Scales of attention scores that a graph holds as numbers: they follow the heads."""

from __future__ import annotations

import math
import operator
from typing import Any

from torch import fx

from sparsefx.passes.graphs.weight_sources import label_of
from sparsefx.passes.widths.axes import Axis
from sparsefx.passes.widths.width_flow import Widths


def rescale(flow: Widths, widths: dict[int, int]) -> None:
    """Rewrites ``d ** -0.5`` and ``d ** 0.5`` where the size ``d`` of heads changed.

    A number counts as such a scale if it multiplies or divides queries, keys or their
    product and is equal to it for the recorded size.
    """
    for node in flow.root.graph.nodes:
        label = label_of(node)
        if label == "scaled_dot_product_attention":
            scale = node.kwargs.get("scale")
            axis = flow.products[node]
            if isinstance(scale, float) and _is_scale(flow, axis, scale, -0.5):
                new = flow.axes.width(axis, widths) ** -0.5
                node.kwargs = {**node.kwargs, "scale": new}
        elif label in ("mul", "div", "truediv", "true_divide") and len(node.args) == 2:
            node.args = _scaled(flow, node, widths)


def _scaled(flow: Widths, node: fx.Node, widths: dict[int, int]) -> Any:
    power = -0.5 if node.target is operator.mul or label_of(node) == "mul" else 0.5
    source = next((a for a in node.args if isinstance(a, fx.Node)), None)
    factor = next((a for a in node.args if isinstance(a, float)), None)
    if source is None or factor is None or not flow.of(source):
        return node.args
    for axis in (flow.products.get(source), flow.of(source)[-1]):
        if axis is not None and _is_scale(flow, axis, factor, power):
            new = flow.axes.width(axis, widths) ** power
            return tuple(new if arg is factor else arg for arg in node.args)
    return node.args


def _is_scale(flow: Widths, axis: Axis, factor: float, power: float) -> bool:
    size = flow.axes.size(axis)
    return flow.axes.live(axis) and math.isclose(factor, size**power, rel_tol=1e-6)
