"""Removal: units that are zero are cut out of the chains that carry them.

A unit is a row of a layer whose result reaches other layers only, through functions
that treat every unit alike. It can go if its row is zero, because what it then says
is a constant that the next layers' biases take over, or if no next layer listens.

Before, with rows 1 and 3 of ``fc1`` zero: ``fc2(relu(fc1(x)))`` with weights
``(4, 8)`` and ``(2, 4)``. After: ``(2, 8)`` and ``(2, 2)``, the same function.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sparsefx.lowering.graph_layers import LayerNode, layer_at
from sparsefx.lowering.inference_graph import assembled, held_by

_UNARY = {
    *(torch.relu, torch.tanh, torch.sigmoid, torch.abs, torch.neg, torch.square),
    *(functional.relu, functional.gelu, functional.silu, functional.relu6),
    *(functional.leaky_relu, functional.elu, functional.selu, functional.mish),
    *(functional.hardtanh, functional.hardswish, functional.hardsigmoid),
    *(functional.softplus, functional.logsigmoid, functional.sigmoid),
    *("relu", "tanh", "sigmoid", "abs", "neg", "square", "relu_", torch.relu_),
}
"""Functions of each entry alone, by function and by method."""

_POOLS = {
    *(functional.max_pool2d, torch.max_pool2d, functional.avg_pool2d),
    functional.adaptive_avg_pool2d,
}
"""They keep zeros zero, and channels apart; other constants change at borders."""

_NORMS = (nn.BatchNorm2d,)


@dataclass(frozen=True, slots=True, eq=False)
class _Listener:
    """A layer at the end of a chain, and what constant units say to it."""

    layer: LayerNode
    constant: Tensor


@dataclass(slots=True)
class _Chain:
    """Everything that a layer's units reach."""

    listeners: list[_Listener] = field(default_factory=list)
    norms: list[fx.Node] = field(default_factory=list)
    zero_only: bool = False


@torch.no_grad()
def cut_chains(module: fx.GraphModule) -> tuple[fx.GraphModule, dict[str, Any]]:
    """The graph without its dead units, and the shapes that weights had before.

    Args:
        module: a plain graph; it is not changed.

    Example:
        >>> from sparsefx.lowering.inference_graph import graph_of
        >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> _ = net[0].weight.data[1:].zero_()
        >>> found = graph_of(net, (torch.ones(1, 8),))
        >>> small, before = cut_chains(found[0])
        >>> before, tuple(small.state_dict()["0.weight"].shape)
        ({'0.weight': (4, 8), '2.weight': (2, 4)}, (1, 8))
    """
    held = held_by(module)
    graph = fx.Graph()
    output = graph.graph_copy(module.graph, {})
    graph.output(output)
    before: dict[str, tuple[int, ...]] = {}
    changed = True
    while changed:
        changed = False
        for node in list(graph.nodes):
            layer = layer_at(node, held)
            if layer is not None and _cut(layer, held, before):
                changed = True
    return assembled(graph, held), before


def _cut(
    producer: LayerNode, held: dict[str, Any], before: dict[str, tuple[int, ...]]
) -> bool:
    chain = _follow(producer, held)
    if chain is None or not chain.listeners:
        return False
    dead = _dead(producer, chain)
    if not dead.any():
        return False
    if dead.all():
        dead[0] = False  # a layer of no units is no layer
        if not dead.any():
            return False
    live = ~dead
    touched = [producer, *(listener.layer for listener in chain.listeners)]
    for layer in touched:
        before.setdefault(layer.layer.name, tuple(layer.layer.weight.shape))
    for listener in chain.listeners:
        _take_over(listener, dead, held)
    name = producer.layer.name
    held[name] = held[name][live].contiguous()
    if producer.bias is not None:
        held[str(producer.bias.target)] = held[str(producer.bias.target)][live]
    for node in chain.norms:
        held[str(node.target)] = _narrowed(held[str(node.target)], live)
    return True


def _dead(producer: LayerNode, chain: _Chain) -> Tensor:
    """Units whose row is zero and can be taken over, or that nobody listens to."""
    silent = ~(producer.layer.matrix != 0).any(1)
    unheard = torch.ones_like(silent)
    for listener in chain.listeners:
        weight = listener.layer.layer.weight
        unheard &= ~(weight.transpose(0, 1).flatten(1) != 0).any(1)
        window = listener.layer.layer.window
        bordered = window is not None and window.padding != (0, 0)
        if chain.zero_only or bordered:
            silent &= listener.constant == 0
        silent &= listener.constant.isfinite()
    return silent | unheard


def _take_over(listener: _Listener, dead: Tensor, held: dict[str, Any]) -> None:
    layer = listener.layer
    name = layer.layer.name
    weight: Tensor = held[name]
    said = torch.where(dead, listener.constant, 0).double()
    summed = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    added = summed.double() @ said
    if layer.bias is not None:
        key = str(layer.bias.target)
        held[key] = (held[key].double() + added).to(weight.dtype)
    elif added.any():
        graph = layer.node.graph
        key = f"{name}_constant"
        held[key] = added.to(weight.dtype)
        with graph.inserting_before(layer.node):
            read = graph.get_attr(key)
        args = list(layer.node.args[:2])
        rest = layer.node.args[3:]
        layer.node.args = (*args, read, *rest) if len(args) == 2 else tuple(args)
        layer.node.kwargs = {k: v for k, v in layer.node.kwargs.items() if k != "bias"}
    held[name] = weight[:, ~dead].contiguous()


def _follow(producer: LayerNode, held: dict[str, Any]) -> _Chain | None:
    """The chain that begins at a layer, or None if its units are seen one by one."""
    own = (producer.weight, producer.bias)
    if any(node is not None and len(node.users) > 1 for node in own):
        return None
    units = producer.layer.weight.shape[0]
    bias = producer.layer.bias
    constant = producer.layer.weight.new_zeros(units) if bias is None else bias
    chain = _Chain()
    todo = [(producer.node, constant)]
    while todo:
        node, constant = todo.pop()
        if not node.users:
            return None
        for user in node.users:
            step = _step(user, node, constant, producer, held, chain)
            if step is None:
                return None
            todo += step
    return chain


def _step(
    user: fx.Node,
    node: fx.Node,
    constant: Tensor,
    producer: LayerNode,
    held: dict[str, Any],
    chain: _Chain,
) -> list[tuple[fx.Node, Tensor]] | None:
    """What follows ``user``: nothing at a listener, None where the chain is not one."""
    reads = [n for n in user.all_input_nodes if n.op != "get_attr"]
    if reads != [node]:
        return None
    layer = layer_at(user, held)
    if layer is not None:
        shared = any(n and len(n.users) > 1 for n in (layer.weight, layer.bias))
        if shared or layer.layer.op != producer.layer.op or layer.input is not node:
            return None
        chain.listeners.append(_Listener(layer, constant))
        return []
    known = user.op in ("call_function", "call_method")
    if known and user.target in _UNARY and user.args[0] is node:
        return [(user, _applied(user, constant))]
    spatial = producer.layer.window is not None
    if spatial and user.target in _POOLS and user.args[0] is node:
        chain.zero_only = True
        return [(user, constant)]
    if user.op == "call_module" and isinstance(held[str(user.target)], _NORMS):
        module = held[str(user.target)]
        if not spatial or module.running_mean is None or user in chain.norms:
            return None
        chain.norms.append(user)
        said = module(constant.reshape(1, -1, 1, 1)).flatten()
        return [(user, said)]
    return None


def _applied(node: fx.Node, constant: Tensor) -> Tensor:
    rest, options = node.args[1:], dict(node.kwargs)
    options.pop("inplace", None)
    if node.op == "call_method":
        found: Tensor = getattr(constant.clone(), str(node.target))(*rest, **options)
        return found
    call: Any = node.target
    result: Tensor = call(constant.clone(), *rest, **options)
    return result


def _narrowed(module: Any, live: Tensor) -> nn.Module:
    small = nn.BatchNorm2d(
        int(live.sum()), eps=module.eps, affine=module.affine, device=live.device
    )
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(module, name)
        if value is not None:
            setattr(small, name, _like(value, value.detach()[live]))
    return small.eval().requires_grad_(False)


def _like(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=False) if type(old) is nn.Parameter else new
