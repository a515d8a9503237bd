"""What products with weights and with activations do with tags."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from sparsefx.passes.units.tag_step import Step, bind, join_all
from sparsefx.passes.units.tags import FREE, Aligned, Consumed, Ledger


def columns(
    step: Step, source: fx.Node, tags: Tensor, dim: int, lines: tuple[str, int, Tensor]
) -> None:
    """An input's dimension meets columns of a weight."""
    name, weight_dim, index = lines
    others = tuple(i for i in range(tags.ndim) if i != dim % tags.ndim)
    line = tags.amax(others) if others else tags
    step.ledger.join(tags.movedim(dim, -1), line)
    step.ledger.freeze(tags)
    size = step.ledger.shapes[name][1][weight_dim]
    found = torch.full((size,), -1)
    found[index] = line.clamp(min=FREE)
    step.ledger.consumed.append(
        Consumed(step.node, source, dim % tags.ndim, name, weight_dim, found)
    )


def weight_lines(ledger: Ledger, tags: Tensor, dim: int) -> tuple[str, int, Tensor]:
    """Which dimension of which parameter runs along a dimension of a weight."""
    along = tags.movedim(dim, 0).reshape(tags.shape[dim], -1)[:, 0]
    name, first = ledger.locate(int(along[0]))
    _, last = ledger.locate(int(along[-1]))
    base, shape = ledger.shapes[name]
    moved = [i for i, (a, b) in enumerate(zip(first, last, strict=True)) if a != b]
    if len(along) == 1:  # nothing moves along a dimension of size one
        moved = [dim % len(shape)]
    if len(moved) != 1:
        raise LookupError(name)
    inner = shape[moved[0] + 1 :].numel()
    return name, moved[0], (-1 - along - base) // inner % shape[moved[0]]


def is_weight(tags: object) -> bool:
    """Whether every entry is an entry of a parameter."""
    return isinstance(tags, Tensor) and tags.numel() > 0 and bool((tags < 0).all())


def weigh(
    step: Step,
    source: fx.Node,
    x: Tensor,
    dim: int,
    weight: Tensor,
    dims: tuple[int, int],
) -> Tensor:
    """Rows of a weight times an input; the result's rows, as variables.

    Args:
        step: the call.
        source: node of the input.
        x: tags of the input.
        dim: dimension of the input that is summed over.
        weight: tags of the weight.
        dims: the weight's dimensions of rows and of columns.
    """
    ledger = step.ledger
    try:
        if dims[1] >= 0:
            columns(step, source, x, dim, weight_lines(ledger, weight, dims[1]))
        name, row_dim, index = weight_lines(ledger, weight, dims[0])
    except LookupError:
        ledger.stick(x)
        ledger.freeze(weight)
        return torch.zeros(weight.shape[dims[0]], dtype=torch.int64)
    return ledger.row_variables(name, row_dim)[index]


def _linear(step: Step) -> Tensor:
    x, weight = step.args[0], step.get(1, "weight")
    if not is_weight(weight):  # the input may be: a norm of what has no rows
        return step.stuck()
    rows = weigh(step, step.source(0, "input"), x, -1, weight, (0, 1))
    out = rows.expand(step.shape)
    return _biased(step, out, step.get(2, "bias"))


def _biased(step: Step, out: Tensor, bias: Any) -> Tensor:
    return join_all(step, [out, bias]) if isinstance(bias, Tensor) else out


def _conv(step: Step) -> Tensor:
    x, weight, bias = (
        step.get(i, n) for i, n in enumerate(("input", "weight", "bias"))
    )
    groups = step.get(6, "groups", 1)
    transposed = "transpose" in step.name
    spatial = weight.ndim - 2
    if not is_weight(weight) or x.ndim != spatial + 2:
        return step.stuck()
    unit = (1,) * spatial
    if groups == 1:
        dims = (1, 0) if transposed else (0, 1)
        rows = weigh(step, step.source(0, "input"), x, 1, weight, dims)
    elif not transposed and groups == weight.shape[0] == x.shape[1]:
        rows = weigh(step, step.source(0, "input"), x, 1, weight, (0, -1))
        step.ledger.join(x.movedim(1, -1), rows)
    else:
        return step.stuck()
    name, dim, _ = weight_lines(step.ledger, weight, 1 if transposed else 0)
    step.ledger.convolved.add((name, dim))
    out = rows.reshape(-1, *unit).expand(step.shape)
    bias = bias.reshape(-1, *unit) if isinstance(bias, Tensor) else bias
    return _biased(step, out, bias)


def _embedding(step: Step) -> Tensor:
    weight = step.args[0] if step.node.target is torch.embedding else step.args[1]
    if not is_weight(weight):
        return step.stuck()
    name, dim, index = weight_lines(step.ledger, weight, 1)
    return step.ledger.row_variables(name, dim)[index].expand(step.shape)


def _sdpa(step: Step) -> Tensor:
    q, k, v = (step.get(i, n) for i, n in enumerate(("query", "key", "value")))
    ledger, node = step.ledger, step.node
    if q.ndim < 3:
        return step.stuck()
    q = ledger.merge(q, (-2, -1))
    k, v = ledger.merge(k, (-2, -1)), ledger.merge(v, (-2,))
    groups = q.shape[-3] // k.shape[-3]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, -3) for x in (k, v))
    ledger.join(q, k)
    ledger.join(v, torch.where(q > 0, q, k))
    scores = torch.where(q > 0, q, k)
    ledger.attention.append(torch.unique(scores))
    mask = step.get(3, "attn_mask")
    if isinstance(mask, Tensor) and mask.ndim > 2:
        value_k = step.get(1, "key")
        full = scores.expand(*scores.shape[:-2], step.shape[-2], value_k.shape[-2])
        ledger.join(mask, full)
        bind(ledger, mask.expand(full.shape), full)
        ledger.aligned.append(Aligned(node, mask, full))
    return torch.where(v > 0, v, scores).expand(step.shape)


def _matmul(step: Step) -> Tensor:
    a, b = step.args[:2]
    if step.name == "rmatmul":
        a, b = b, a
    return _product(step, a, b, 0)


def _addmm(step: Step) -> Tensor:
    out = _product(step, step.args[1], step.args[2], 1)
    return _biased(step, out, step.args[0])


def _product(step: Step, a: Any, b: Any, first: int) -> Tensor:
    if (
        not isinstance(a, Tensor)
        or not isinstance(b, Tensor)
        or min(a.ndim, b.ndim) < 2
    ):
        return step.stuck()
    letters = string.ascii_letters
    depth = max(a.ndim, b.ndim) - 2
    batch = letters[3 : 3 + depth]
    la, lb = batch[depth - a.ndim + 2 :] + "ab", batch[depth - b.ndim + 2 :] + "bc"
    return contract(step, (a, la, first), (b, lb, first + 1), batch + "ac")


def _einsum(step: Step) -> Tensor:
    operands = step.args[1:]
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    left, arrow, out = str(step.args[0]).replace(" ", "").partition("->")
    terms = left.split(",")
    plain = arrow and "..." not in left and len(operands) == 2
    if not plain or any(len(set(t)) != len(t) for t in terms):
        return step.stuck()
    (a, b), (la, lb) = operands, terms
    if step.node.args[1] is None or not isinstance(step.node.args[1], fx.Node):
        return step.stuck()
    return contract(step, (a, la, 1), (b, lb, 2), out)


def contract(
    step: Step,
    first: tuple[Tensor, str, int],
    second: tuple[Tensor, str, int],
    out: str,
) -> Tensor:
    """A sum of products over the letters that the result does not have."""
    (a, la, at), (b, lb, _) = first, second
    if is_weight(a) and is_weight(b):
        return step.stuck()
    if is_weight(a):
        return contract(step, second, first, out)
    summed = [c for c in la if c in lb and c not in out]
    lone = [c for c in la + lb if (c in la) != (c in lb) and c not in out]
    if lone:
        return step.stuck()
    if is_weight(b):
        fresh = [c for c in lb if c not in la]
        if len(summed) != 1 or len(fresh) != 1 or len(lb) != 2:
            return step.stuck()
        dims = lb.index(fresh[0]), lb.index(summed[0])
        source = step.source(at, "")
        rows = weigh(step, source, a, la.index(summed[0]), b, dims)
        return rows.reshape(-1, *(1,) * (len(out) - 1 - out.index(fresh[0]))).expand(
            step.shape
        )
    ledger = step.ledger
    parts = []
    for tags, own in ((a, la), (b, lb)):
        line = ledger.merge(tags, tuple(own.index(c) for c in summed))
        line = line.squeeze(tuple(own.index(c) for c in summed))
        kept = [c for c in own if c not in summed]
        order = [kept.index(c) for c in out if c in kept]
        line = line.permute(order)
        shape = iter(line.shape)
        parts.append(line.reshape([next(shape) if c in kept else 1 for c in out]))
    x, y = parts
    ledger.join(x, y)
    both = torch.where(x > 0, x, y).expand(step.shape)
    if bool((x > 0).any()) and bool((y > 0).any()):
        ledger.attention.append(torch.unique(both))
    return both


PRODUCTS: Mapping[str, Callable[[Step], Tensor]] = {
    "linear": _linear,
    **{f"conv{n}d": _conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _conv for n in (1, 2, 3)},
    "embedding": _embedding,
    "scaled_dot_product_attention": _sdpa,
    **dict.fromkeys(("matmul", "rmatmul", "bmm", "mm"), _matmul),
    "addmm": _addmm,
    "baddbmm": _addmm,
    "einsum": _einsum,
}
