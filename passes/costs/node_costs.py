"""The price of each kind of node: which weights it uses how often, and what is fixed.

Each rule is a few lines over the formulas of `sparsefx.passes.costs.cost_table`; a new
operation is one rule and one line in ``RULES``.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import fx

from sparsefx.passes.costs.cost_table import (
    attention_macs,
    batch_names,
    conv_uses,
    linear_uses,
)
from sparsefx.passes.costs.node_cost import Priced, weighted
from sparsefx.passes.costs.sequence_costs import cell, grouped, recurrent
from sparsefx.passes.costs.symbolic_size import Amount, integer, product
from sparsefx.passes.graphs.weight_sources import (
    Scope,
    Size,
    argument,
    label_of,
    shape_of,
)
from sparsefx.torch_internals import hint

# An index of a contraction: a letter, or an int for a dimension that broadcasts.
Index = int | str


def _linear(node: fx.Node, scope: Scope) -> Priced:
    leading = shape_of(argument(node, 0, "input"))[:-1]
    uses = linear_uses(leading, scope.symbolic)
    return weighted(node, argument(node, 1, "weight"), "linear", uses, scope)


def _bilinear(node: fx.Node, scope: Scope) -> Priced:
    uses = linear_uses(shape_of(argument(node, 0, "input1"))[:-1], scope.symbolic)
    return weighted(node, argument(node, 2, "weight"), "bilinear", uses, scope)


def _conv(node: fx.Node, scope: Scope) -> Priced:
    op = label_of(node)
    weight = argument(node, 1, "weight")
    # A transposed convolution scatters every input entry through the whole kernel.
    shape = shape_of(argument(node, 0, "input") if "transpose" in op else node)
    split = len(shape) - (len(shape_of(weight)) - 2)
    uses = conv_uses(shape[: split - 1], shape[split:], scope.symbolic)
    return weighted(node, weight, op, uses, scope)


def _embedding(node: fx.Node, scope: Scope) -> Priced:
    weight = argument(node, 0 if node.target is torch.embedding else 1, "weight")
    return weighted(node, weight, "embedding", Amount(integer(0)), scope)


def _contract(
    node: fx.Node,
    op: str,
    operands: Sequence[tuple[object, Sequence[Index]]],
    labels: Mapping[Index, str],
    scope: Scope,
) -> Priced:
    """Prices a sum of products over indices.

    One weight among activations is used once for each value of the indices it does
    not have; without a weight all MACs are fixed, and so are they with two, since
    their cost is not linear in what is kept of each.
    """
    sizes: dict[Index, Size] = {}
    for operand, indices in operands:
        for index, size in zip(indices, shape_of(operand), strict=True):
            if index not in sizes or _is_one(sizes[index]):
                sizes[index] = size
    weights = [pair for pair in operands if scope.parameter(pair[0])]
    if len(weights) == 1:
        operand, indices = weights[0]
        own = {
            index
            for index, size in zip(indices, shape_of(operand), strict=True)
            if not _is_one(size) or (isinstance(index, str) and _is_one(sizes[index]))
        }
        if len(set(indices)) == len(indices):
            rest = [size for index, size in sizes.items() if index not in own]
            uses = linear_uses(rest, scope.symbolic)
            return weighted(node, operand, op, uses, scope)
    reason = (
        f"{op} ({node.name}) multiplies several weights: not linear in each"
        if len(weights) > 1
        else f"{op} ({node.name}) uses only a diagonal of it"
    )
    repeated = sorted(index for index in sizes if isinstance(index, int))
    names = dict(labels)
    names.update(zip(repeated, batch_names(len(repeated), scope.symbolic), strict=True))
    fixed = product(sizes.values(), [names[index] for index in sizes])
    blocked = [(str(scope.parameter(operand)), reason) for operand, _ in weights]
    if not weights:
        reason = f"reaches {op} ({node.name}) through other operations, not as it is"
        blocked = [(n, reason) for pair in operands for n in scope.behind(pair[0])]
    return Priced((), fixed, tuple(blocked))


def _is_one(size: Size) -> bool:
    return not isinstance(size, torch.SymInt) and size == 1


# Operand names of the matrix products, and the position of the first.
_MATMULS = {
    "matmul": (0, "input", "other"),
    "__matmul__": (0, "input", "other"),
    "__rmatmul__": (0, "input", "other"),
    "mm": (0, "input", "mat2"),
    "bmm": (0, "input", "mat2"),
    "mv": (0, "input", "vec"),
    "addmm": (1, "mat1", "mat2"),
    "baddbmm": (1, "batch1", "batch2"),
}


def _matmul(node: fx.Node, scope: Scope) -> Priced:
    name = label_of(node)
    first, left, right = _MATMULS[name]
    a, b = argument(node, first, left), argument(node, first + 1, right)
    if name == "__rmatmul__":
        a, b = b, a
    depth_a, depth_b = len(shape_of(a)), len(shape_of(b))
    in_a = [*range(2 - depth_a, 0), *("n", "k")[-depth_a:]]
    in_b = [*range(2 - depth_b, 0), *("k", "m")[:depth_b]]
    labels: dict[Index, str] = {"n": "rows", "k": "inner", "m": "columns"}
    return _contract(node, "matmul", [(a, in_a), (b, in_b)], labels, scope)


def _einsum(node: fx.Node, scope: Scope) -> Priced:
    operands = node.args[1:]
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    terms = str(node.args[0]).replace(" ", "").split("->")[0].split(",")
    pairs: list[tuple[object, list[Index]]] = []
    for term, operand in zip(terms, operands, strict=True):
        before, dots, after = term.partition("...")
        hidden = len(shape_of(operand)) - len(before) - len(after)
        spread = range(-hidden, 0) if dots else ()
        pairs.append((operand, [*before, *spread, *after]))
    letters = set("".join(terms)) - {"."}
    labels: dict[Index, str] = {letter: f"size_{letter}" for letter in letters}
    return _contract(node, "einsum", pairs, labels, scope)


def _sdpa(node: fx.Node, scope: Scope) -> Priced:
    *leading, tokens, dim_qk = shape_of(argument(node, 0, "query"))
    *_, tokens_kv, _ = shape_of(argument(node, 1, "key"))
    dim_v = shape_of(argument(node, 2, "value"))[-1]
    sizes = hint(dim_qk), hint(dim_v)
    return Priced(
        fixed=attention_macs(leading, tokens, tokens_kv, *sizes, scope.symbolic)
    )


def _attention(node: fx.Node, scope: Scope) -> Priced:
    bound = inspect.signature(F.multi_head_attention_forward).bind(
        *node.args, **node.kwargs
    )
    given = bound.arguments
    tokens, *batch, dim = shape_of(given["query"])
    tokens_kv = shape_of(given["key"])[0]

    def uses(size: Size, name: str) -> Amount:
        names = ("positions" if scope.symbolic else "batch",) * len(batch)
        return product((*batch, size), (*names, name))

    queries = uses(tokens, "tokens")
    shared = given["key"] is given["query"]
    keys = queries if shared else uses(tokens_kv, "tokens_kv")
    if given.get("use_separate_proj_weight"):
        priced = Priced()
        for name, amount in (("q", queries), ("k", keys), ("v", keys)):
            weight = given[f"{name}_proj_weight"]
            priced += weighted(node, weight, "attention_in", amount, scope)
    else:
        # One weight holds the three: where their lengths differ, an entry costs the
        # mean, so that the sum is right.
        mean = queries.plus(keys).plus(keys).times(Amount(integer(1) / 3))
        weight = given["in_proj_weight"]
        amount = queries if shared else mean
        priced = weighted(node, weight, "attention_in", amount, scope)
    priced += weighted(node, given["out_proj_weight"], "attention_out", queries, scope)
    heads = int(given["num_heads"])
    extra = (given["bias_k"] is not None) + bool(given["add_zero_attn"])
    head_dim = hint(dim) // heads
    leading = (*(batch or (1,)), heads)
    core = attention_macs(
        leading, tokens, tokens_kv + extra, head_dim, head_dim, scope.symbolic
    )
    return priced + Priced(fixed=core)


RULES: Mapping[str, Callable[[fx.Node, Scope], Priced]] = {
    "linear": _linear,
    "bilinear": _bilinear,
    **{f"conv{n}d": _conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _conv for n in (1, 2, 3)},
    "embedding": _embedding,
    "embedding_bag": _embedding,
    **dict.fromkeys(_MATMULS, _matmul),
    "einsum": _einsum,
    "scaled_dot_product_attention": _sdpa,
    "multi_head_attention_forward": _attention,
    "_grouped_mm": grouped,
    "grouped_mm": grouped,
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), recurrent),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), cell),
}
_HOMES = (torch, F, torch.Tensor, operator)
_TARGETS = frozenset(
    getattr(home, name) for name in RULES for home in _HOMES if hasattr(home, name)
)


def price(node: fx.Node, scope: Scope) -> Priced:
    """The cost of one node; nothing for what counts 0 MACs and has no weight.

    Raises:
        CaptureError: the node's operands carry no recorded values.

    Example:
        >>> graph = fx.Graph()
        >>> x, w = graph.placeholder("x"), graph.get_attr("fc.weight")
        >>> x.meta["val"], w.meta["val"] = torch.ones(8, 5, 4), torch.ones(3, 4)
        >>> y = graph.call_function(F.linear, (x, w))
        >>> (use,) = price(y, Scope({"fc.weight": "fc.weight"}, False)).uses
        >>> print(use.op, use.macs_per_weight, use.sizes)
        linear batch*tokens {'batch': 8, 'tokens': 5}
    """
    known = node.op == "call_method" or (
        node.op == "call_function" and node.target in _TARGETS
    )
    rule = RULES.get(label_of(node)) if known else None
    return rule(node, scope) if rule else Priced()
