"""What layers, norms and products do to the widths of their inputs."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from sparsefx.passes.graphs.weight_sources import argument, label_of
from sparsefx.passes.iso_flop.replaceable_layers import TRANSPOSED
from sparsefx.passes.widths.axes import FIXED, Axis
from sparsefx.passes.widths.width_flow import Rule, Value, Widths
from sparsefx.tracing.operations import called


def place_of(node: fx.Node, position: int, name: str) -> tuple[Any, ...]:
    """Where an argument is, for `Widths.patch`."""
    return (0, position) if len(node.args) > position else (1, name)


def _linear(flow: Widths, node: fx.Node) -> Value:
    x = flow.of(argument(node, 0, "input"))
    out, inner = flow.of(argument(node, 1, "weight"))
    flow.axes.equal(x[-1], inner)
    flow.axes.mark(out)
    _tie(flow, argument(node, 2, "bias"), out)
    return [*x[:-1], out]


def _tie(flow: Widths, node: object, axis: Axis) -> None:
    """A vector, if there is one, has an entry a channel."""
    value = flow.of(node)
    if value and flow.axes.size(value[-1]) != 1:
        flow.axes.equal(axis, value[-1])


def _conv(flow: Widths, node: fx.Node) -> Value:
    transposed = label_of(node) in TRANSPOSED
    x, w = flow.of(argument(node, 0, "input")), flow.of(argument(node, 1, "weight"))
    channel = len(x) - (len(w) - 2) - 1
    groups = int(str(argument(node, 6, "groups") or 1))
    axes, inputs = flow.axes, x[channel]
    for axis in (*x[channel + 1 :], *w[2:]):
        axes.hold(axis, "a convolution slides over it")
    if groups == 1:
        out, inner = (w[1], w[0]) if transposed else (w[0], w[1])
        axes.equal(inputs, inner)
        axes.mark(out)
    elif groups == axes.size(inputs):
        multiple = axes.size(w[1] if transposed else w[0])
        multiple = multiple if transposed else multiple // groups
        out = axes.spread(inputs, multiple)
        axes.equal(inputs if transposed else out, w[0])
        axes.hold(w[1], "a depthwise convolution has one of it")
        flow.patch(node, place_of(node, 6, "groups"), inputs)
    else:
        part = axes.parts(inputs, groups)
        if transposed:
            axes.equal(inputs, w[0])
            out = axes.copies(w[1], groups)
            axes.mark(w[1])
        else:
            axes.equal(part, w[1])
            axes.mark(w[0])
            axes.parts(w[0], groups)
            out = w[0]
    _tie(flow, argument(node, 2, "bias"), out)
    spatial = [((FIXED, size),) for size in flow.size(node)[channel + 1 :]]
    return [*x[:channel], out, *spatial]


def _embedding(flow: Widths, node: fx.Node) -> Value:
    first = node.target is torch.embedding
    index = flow.of(argument(node, 1 if first else 0, "indices" if first else "input"))
    rows, out = flow.of(argument(node, 0 if first else 1, "weight"))
    flow.axes.hold(rows, "an embedding has a row for each index")
    flow.axes.mark(out)
    return [*index, out]


def _layer_norm(flow: Widths, node: fx.Node) -> Value:
    x = flow.of(argument(node, 0, "input"))
    shape: Any = argument(node, 1, "normalized_shape")
    place = place_of(node, 1, "normalized_shape")
    for index in range(-len(shape), 0):
        flow.patch(node, (*place, index), x[index])
        for position, name in ((2, "weight"), (3, "bias")):
            value = flow.of(argument(node, position, name))
            if value and label_of(node) + name != "rms_normbias":
                flow.axes.equal(x[index], value[index])
    return x


def _group_norm(flow: Widths, node: fx.Node) -> Value:
    x = flow.of(argument(node, 0, "input"))
    flow.axes.parts(x[1], int(str(argument(node, 1, "num_groups"))))
    for position, name in ((2, "weight"), (3, "bias")):
        _tie(flow, argument(node, position, name), x[1])
    return x


def _batch_norm(flow: Widths, node: fx.Node) -> Value:
    x = flow.of(argument(node, 0, "input"))
    names = ("running_mean", "running_var", "weight", "bias")
    for position, name in enumerate(names, start=1):
        value = argument(node, position, name)
        flow.own_buffer(value)
        _tie(flow, value, x[1])
    return x


def _prelu(flow: Widths, node: fx.Node) -> Value:
    x = flow.of(argument(node, 0, "input"))
    _tie(flow, argument(node, 1, "weight"), x[min(1, len(x) - 1)])
    return x


def _matmul(flow: Widths, node: fx.Node) -> Any:
    first = 1 if called(node) in ("addmm", "baddbmm") else 0
    operands = list(node.args[first : first + 2])
    if called(node) == "rmatmul":
        operands.reverse()
    a, b = map(flow.of, operands)
    if min(len(a), len(b)) < 2:
        return flow.give_up(node, "a product with a vector")
    flow.axes.equal(a[-1], b[-2])
    flow.products[node] = a[-1]
    for operand, axis in zip(operands, (a[-2], b[-1]), strict=True):
        if isinstance(operand, fx.Node) and operand.op == "get_attr":
            flow.axes.mark(axis)
    out = [*flow.broadcast([a[:-2], b[:-2]]), a[-2], b[-1]]
    return flow.broadcast([out, flow.of(node.args[0])]) if first else out


def _einsum(flow: Widths, node: fx.Node) -> Any:
    operands: Any = node.args[1:]
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = operands[0]
    left, arrow, right = str(node.args[0]).replace(" ", "").partition("->")
    if not arrow or "..." in left:
        return flow.give_up(node, "an einsum that does not spell out its axes")
    known: dict[str, Axis] = {}
    for term, operand in zip(left.split(","), operands, strict=True):
        for letter, axis in zip(term, flow.of(operand), strict=True):
            if letter in known:
                flow.axes.equal(known[letter], axis)
            known.setdefault(letter, axis)
            weight = isinstance(operand, fx.Node) and operand.op == "get_attr"
            if weight and letter in right:
                flow.axes.mark(axis)
    return [known[letter] for letter in right]


def _attention(flow: Widths, node: fx.Node) -> Value:
    q, k, v = (
        flow.of(argument(node, i, n)) for i, n in enumerate(("query", "key", "value"))
    )
    axes = flow.axes
    axes.equal(q[-1], k[-1])
    axes.equal(k[-2], v[-2])
    flow.products[node] = q[-1]
    if node.kwargs.get("enable_gqa"):
        copies = axes.size(q[-3]) // axes.size(k[-3])
        axes.equal(q[-3], axes.spread(k[-3], copies))
        axes.equal(k[-3], v[-3])
        leading = flow.broadcast([q[:-2]])
    else:
        leading = flow.broadcast([q[:-2], k[:-2], v[:-2]])
    mask = flow.of(argument(node, 3, "attn_mask"))
    if mask:
        flow.broadcast([[*leading, q[-2], k[-2]], mask])
    return [*leading, q[-2], v[-1]]


def _multi_head(flow: Widths, node: fx.Node) -> Any:
    bound = inspect.signature(F.multi_head_attention_forward).bind(
        *node.args, **node.kwargs
    )
    return flow.give_up(
        node, f"attention of {bound.arguments['num_heads']} heads in one"
    )


LAYERS: dict[str, Rule] = {
    "linear": _linear,
    **{f"conv{n}d": _conv for n in (1, 2, 3)},
    **dict.fromkeys(TRANSPOSED, _conv),
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "instance_norm": _batch_norm,
    "prelu": _prelu,
    **dict.fromkeys(
        ("matmul", "rmatmul", "mm", "bmm", "addmm", "baddbmm"),
        _matmul,
    ),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
}
