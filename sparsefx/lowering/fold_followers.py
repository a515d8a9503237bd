"""What follows a packed layer becomes part of it: norms of images, and activations."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import fx, nn
from torch.nn import functional

from sparsefx.kernels.activation import ACTIVATIONS
from sparsefx.lowering.packed_convolution import PackedConvolution
from sparsefx.lowering.packed_layer import PackedLayer

_NAMES: dict[Any, str] = {call: name for name, call in ACTIVATIONS.items()}
_NAMES |= {torch.relu: "relu"}


def fold_followers(graph: fx.Graph, held: dict[str, nn.Module]) -> None:
    """Puts norms and activations that follow packed layers into them, in place.

    Args:
        graph: of an eval model.
        held: its modules by name; what changes has the same name.

    Example:
        >>> from sparsefx.kernels.sparse_product import Form
        >>> from sparsefx.lowering.dense_layer import Dense
        >>> layer = PackedLayer(Dense("w", torch.ones(1, 1), None), Form(128, 8))
        >>> graph, held = fx.Graph(), {"layer": layer}
        >>> y = graph.call_module("layer", (graph.placeholder("x"),))
        >>> _ = graph.output(graph.call_function(functional.gelu, (y,)))
        >>> fold_followers(graph, held)
        >>> held["layer"].activation, [node.name for node in graph.nodes]
        ('gelu', ['x', 'layer', 'output'])
    """
    for node in list(graph.nodes):
        layer: Any = held.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, PackedConvolution | PackedLayer):
            continue
        after = _only_user(node)
        norm = held.get(str(after.target)) if after and after.op != "output" else None
        if isinstance(layer, PackedConvolution) and _is_fixed(norm):
            layer = layer.normed_by(norm)
            after = _without(graph, after, node)
        name = _activation_of(after) if after else None
        if name is not None:
            layer = layer.followed_by(name)
            _without(graph, after, node)
        held[str(node.target)] = layer


def _activation_of(node: fx.Node) -> str | None:
    settings = [*node.args[1:], *node.kwargs.values()]
    if node.target is functional.gelu and "tanh" in settings:
        return "gelu_tanh"
    if node.target is functional.hardtanh and settings[:2] == [0, 6]:  # nn.ReLU6
        return "relu6"
    return _NAMES.get(node.target) if node.op == "call_function" else None


def _is_fixed(module: nn.Module | None) -> TypeGuard[nn.BatchNorm2d]:
    return type(module) is nn.BatchNorm2d and module.running_mean is not None


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].all_input_nodes == [node] else None


def _without(graph: fx.Graph, node: fx.Node | None, before: fx.Node) -> fx.Node | None:
    """Takes the only user of a node out; what is its only user then."""
    assert node is not None
    node.replace_all_uses_with(before)
    graph.erase_node(node)
    return _only_user(before)
