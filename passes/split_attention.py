"""Turns multi-head attention, one opaque node, into plain ones."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import fx

from sparsefx.errors import CaptureError
from sparsefx.passes.graphs.graph_pass import Pass
from sparsefx.passes.graphs.node_writer import Writer
from sparsefx.passes.graphs.weight_sources import shape_of
from sparsefx.tracing.merge_modes import by_mode


@dataclass(frozen=True, slots=True)
class SplitAttention(Pass):
    """Rewrites each ``multi_head_attention_forward`` to its plain parts.

    Before, and after (self-attention; other cases have three projections)::

        out = F.multi_head_attention_forward(     qkv = F.linear(x, in_weight, in_bias)
            x, x, x, 16, 2, in_weight, in_bias,   parts = qkv.unflatten(-1, (3, 2, 8))
            ..., out_weight, out_bias)                .permute(2, 1, 3, 0, 4)
        y = out[0]                                q, k, v = parts[0], parts[1], parts[2]
                                                  a = scaled_dot_product_attention(q, k,
                                                      v, mask, dropout, is_causal)
                                                  a = a.permute(2, 0, 1, 3).flatten(-2)
                                                  y = F.linear(a, out_weight, out_bias)

    Masks (boolean and additive, of keys and of pairs), the causal flag and dropout stay
    what they were; parameters keep their names. Where the attention weights are read,
    softmax is written out. What torch's layer computes otherwise is refused by name.

    Raises:
        CaptureError: the node has ``bias_k``, ``add_zero_attn`` or static keys.

    Example:
        >>> from sparsefx.tracing.capture import capture
        >>> x = torch.randn(2, 3, 8)
        >>> found = capture(torch.nn.TransformerEncoderLayer(8, 2, 16), (x,))
        >>> split = SplitAttention()(found.graphs[""])
        >>> "multi_head" in split.code, "scaled_dot_product_attention" in split.code
        (False, True)
    """

    in_place: ClassVar[bool] = True

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Rewrites in place and returns the same module."""
        graph = graph_module.graph
        for node in list(graph.nodes):
            if node.target is F.multi_head_attention_forward:
                _split(node)
        return graph_module


def _split(node: fx.Node) -> None:
    bound = inspect.signature(F.multi_head_attention_forward).bind(
        *node.args, **node.kwargs
    )
    bound.apply_defaults()
    given = bound.arguments
    where = str(node.meta.get("module", "")) or "the root module"
    for name in ("bias_k", "bias_v", "static_k", "static_v"):
        if given[name] is not None:
            raise CaptureError(
                f"attention {where!r} has {name}, which adds a token of its own to "
                "keys or values and cannot be split; build it without (add_bias_kv="
                "False, no static keys), or leave SplitAttention out"
            )
    if given["add_zero_attn"]:
        raise CaptureError(
            f"attention {where!r} has add_zero_attn=True, which cannot be split; "
            "build it without, or leave SplitAttention out"
        )
    with node.graph.inserting_before(node):
        write = Writer(node.graph, str(node.meta.get("module", "")))
        out, weights = _attend(write, given, reads_weights=_reads_weights(node))
    for user in list(node.users):
        part = out if user.args[1] == 0 else weights
        if part is not None:
            user.replace_all_uses_with(part)
        node.graph.erase_node(user)
    node.graph.erase_node(node)


def _reads_weights(node: fx.Node) -> bool:
    for user in node.users:
        if user.target is not operator.getitem:
            raise CaptureError(
                f"the result of attention {node.name} is used as a whole by "
                f"{user.name}; only its output and its weights can be told apart"
            )
    return any(user.args[1] == 1 and user.users for user in node.users)


def _attend(
    write: Writer, given: Mapping[str, Any], *, reads_weights: bool
) -> tuple[fx.Node, fx.Node | None]:
    query = given["query"]
    heads = int(given["num_heads"])
    unbatched = len(shape_of(query)) == 2
    q, k, v = _project(write, given, heads, unbatched)
    causal, mask = _mask(write, given, heads, q, unbatched, reads_weights)
    weights = None
    if reads_weights:
        scale = shape_of(q)[-1] ** -0.5
        scores = write(
            torch.matmul, write(torch.mul, q, scale), write("transpose", k, -2, -1)
        )
        scores = scores if mask is None else write(torch.add, scores, mask)
        weights = write(torch.softmax, scores, -1)
        if given["dropout_p"]:
            rate, training = given["dropout_p"], given["training"]
            weights = write(F.dropout, weights, rate, training)
        out = write(torch.matmul, weights, v)
        if given["average_attn_weights"]:
            weights = write("mean", weights, 1)
        weights = write("squeeze", weights, 0) if unbatched else weights
    else:
        rate = given["dropout_p"]
        if rate and given["training"] is not True:
            rate = write(by_mode, given["training"], rate, 0.0)
        out = write(
            F.scaled_dot_product_attention,
            *(q, k, v),
            attn_mask=mask,
            dropout_p=rate,
            is_causal=causal,
        )
    out = write("flatten", write("permute", out, 2, 0, 1, 3), -2)
    out = write(F.linear, out, given["out_proj_weight"], given["out_proj_bias"])
    return (write("squeeze", out, 1) if unbatched else out), weights


def _project(
    write: Writer, given: Mapping[str, Any], heads: int, unbatched: bool
) -> list[fx.Node]:
    """Queries, keys and values, each (batch, heads, tokens, size)."""
    inputs = [given["query"], given["key"], given["value"]]
    width = int(given["embed_dim_to_check"])
    weight, bias = given["in_proj_weight"], given["in_proj_bias"]
    same = inputs[0] is inputs[1] is inputs[2]
    if unbatched:
        inputs = [write("unsqueeze", x, 1) for x in inputs]
    size = width // heads
    if same and not given["use_separate_proj_weight"]:
        qkv = write(F.linear, inputs[0], weight, bias)
        parts = write("unflatten", qkv, -1, (3, heads, size))
        parts = write("permute", parts, 2, 1, 3, 0, 4)
        return [write(operator.getitem, parts, i) for i in range(3)]
    found = []
    for index, x in enumerate(inputs):
        rows = slice(index * width, (index + 1) * width)
        if given["use_separate_proj_weight"]:
            own = given[f"{'qkv'[index]}_proj_weight"]
        else:
            own = write(operator.getitem, weight, rows)
        part = None if bias is None else write(operator.getitem, bias, rows)
        projected = write(F.linear, x, own, part)
        split = write("unflatten", projected, -1, (heads, size))
        found.append(write("permute", split, 1, 2, 0, 3))
    return found


def _mask(
    write: Writer,
    given: Mapping[str, Any],
    heads: int,
    query: fx.Node,
    unbatched: bool,
    reads_weights: bool,
) -> tuple[bool, fx.Node | None]:
    """The causal flag and one additive mask for (batch, heads, queries, keys)."""
    pairs, keys = given["attn_mask"], given["key_padding_mask"]
    plain = keys is None and not reads_weights and not given["need_weights"]
    if given["is_causal"] and plain:
        return True, None  # torch takes the mask as a hint only
    dtype = query.meta["val"].dtype
    found = None
    if pairs is not None:
        found = _additive(write, pairs, dtype)
        if len(shape_of(pairs)) == 3:
            found = write("unflatten", found, 0, (-1, heads))
    if keys is not None:
        keys = write("unsqueeze", keys, 0) if unbatched else keys
        added = _additive(write, keys, dtype)
        added = write("unsqueeze", write("unsqueeze", added, 1), 1)
        found = added if found is None else write(torch.add, found, added)
    return False, found


def _additive(write: Writer, mask: fx.Node, dtype: torch.dtype) -> fx.Node:
    """A mask to be added to the scores: -inf where attention is not allowed."""
    value = mask.meta["val"]
    if value.dtype != torch.bool:
        return mask if value.dtype == dtype else write("to", mask, dtype)
    zeros = write(torch.zeros_like, mask, dtype=dtype)
    return write("masked_fill", zeros, mask, float("-inf"))
