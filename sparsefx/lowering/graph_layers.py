"""The layers of a plain graph: which nodes multiply by a weight, and with what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from sparsefx.lowering.dense_layer import Dense, window_of


@dataclass(frozen=True, slots=True, eq=False)
class LayerNode:
    """A node that applies a layer.

    Attributes:
        node: the call.
        layer: what it computes.
        input: the node of its input.
        weight: the node that reads the weight.
        bias: the node that reads the bias, or None.
    """

    node: fx.Node
    layer: Dense
    input: fx.Node
    weight: fx.Node
    bias: fx.Node | None


_CALLS = (functional.linear, torch.conv2d)


def layer_at(node: fx.Node, held: Mapping[str, Any]) -> LayerNode | None:
    """The layer that a node applies, or None if it applies none that is known.

    Args:
        node: any node.
        held: tensors by the names that ``get_attr`` nodes have.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
        >>> graph = fx.Graph()
        >>> x, w = graph.placeholder("x"), graph.get_attr("w")
        >>> node = graph.call_function(torch.conv2d, (x, w))
        >>> layer_at(node, {"w": torch.ones(4, 3, 1, 1)}).layer.op
        'conv2d'
    """
    if node.op != "call_function" or node.target not in _CALLS:
        return None
    named = _arguments(node)
    weight, bias, value = named["weight"], named["bias"], named["input"]
    read = isinstance(weight, fx.Node) and weight.op == "get_attr"
    plain = bias is None or (isinstance(bias, fx.Node) and bias.op == "get_attr")
    if not (read and plain and isinstance(value, fx.Node)):
        return None
    tensor: Tensor = held[weight.target]
    added: Tensor | None = None if bias is None else held[bias.target]
    window = None
    if node.target is torch.conv2d:
        settings = [named[key] for key in ("stride", "padding", "dilation", "groups")]
        window = window_of(tensor, *settings)
        if window is None:
            return None
    elif tensor.ndim != 2:
        return None
    layer = Dense(str(weight.target), tensor, added, window)
    return LayerNode(node, layer, value, weight, bias)


def _arguments(node: fx.Node) -> dict[str, Any]:
    found: dict[str, Any] = {"bias": None}
    names = ["input", "weight", "bias"]
    if node.target is torch.conv2d:
        found |= {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        names += ["stride", "padding", "dilation", "groups"]
    return found | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
