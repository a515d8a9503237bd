"""Follows the token dimension through a graph, and frees the sizes that name it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from sparsefx.errors import CaptureError
from sparsefx.passes.tokens.token_scorer import (
    return_tokens,
    select_tokens,
    take_tokens,
)
from sparsefx.passes.units.owners import slab_dim
from sparsefx.passes.units.size_literals import by_place
from sparsefx.torch_internals import hint
from sparsefx.tracing.error_location import cause_of
from sparsefx.tracing.operations import called, kind_of

Probes = list[Tensor]
_SIZED = ("view", "reshape", "expand", "broadcast_to")


def free_tokens(start: fx.Node, count: fx.Node, tokens: int) -> None:
    """Makes what follows a node work for any number of tokens.

    A probe, a tensor that numbers the tokens along one dimension, goes through each
    call that moves data; where it ends up is where the sizes are.

    Args:
        start: (batch, tokens, width), recorded with ``tokens``; not rewritten.
        count: the node that gives the new number of tokens.
        tokens: the old number.

    Raises:
        CaptureError: something behind ``start`` needs the old number of tokens.
    """
    shape = _shape(start)
    probe = torch.arange(tokens).view(1, tokens, 1).expand(shape)
    probes: dict[fx.Node, Any] = {start: [probe]}
    node = count.next
    while node.op != "output":
        parts = [probes[n] for n in node.all_input_nodes if probes.get(n)]
        if parts and node.op != "get_attr":
            probes[node] = _follow(node, probes, count, tokens)
        node = node.next


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(hint(s) for s in value.shape) if isinstance(value, Tensor) else ()


def _refuse(node: fx.Node, why: str) -> CaptureError:
    where = node.meta.get("module") or "the root module"
    return CaptureError(
        f"tokens cannot be selected here: {node.name} in {where!r} {why}; select "
        "behind it, or leave SelectTokens out"
    )


def _follow(
    node: fx.Node, probes: dict[fx.Node, Any], count: fx.Node, tokens: int
) -> Any:
    name, kind, first = called(node), kind_of(node), node.args[0]
    own = probes.get(first) if isinstance(first, fx.Node) else None
    if node.op == "call_module":
        return own
    if node.target is return_tokens:
        return None  # all tokens are there again
    if kind in ("makes", "reduces") or not _value_shapes(node):
        return None  # sums: over the tokens, or over features behind which is a norm
    if kind in ("casts", "first", "mixes") or name in ("layer_norm", "rms_norm"):
        return own
    if kind == "joins":
        raise _refuse(node, "joins the tokens with others")
    try:
        if kind == "each":
            return _joined(node, probes, tokens)
        if kind == "moves":
            return _moved(node, probes, count, tokens)
        if name == "scaled_dot_product_attention":
            return _attention(node, probes, tokens)
        if name in ("matmul", "bmm"):
            return _matmul(node, probes)
    except (RuntimeError, IndexError, TypeError, AssertionError) as error:
        raise _refuse(node, f"does not move tokens ({cause_of(error)})") from error
    if name == "linear":
        if own and slab_dim(own[0]) == own[0].ndim - 1:
            raise _refuse(node, "multiplies the tokens by a weight")
        out = _shape(node)
        return [p[..., :1].expand(out) for p in own or ()]
    raise _refuse(node, "is not known to work for another number of tokens")


def _value_shapes(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, (Tensor, tuple, list))


def _joined(node: fx.Node, probes: dict[fx.Node, Any], tokens: int) -> Probes:
    shape = _shape(node)
    found: dict[int, Tensor] = {}
    for used in node.all_input_nodes:
        for probe in probes.get(used) or ():
            spread = probe.expand(shape)
            dim = slab_dim(spread)
            if dim is not None:
                found[dim] = spread
    for used in node.all_input_nodes:
        own = {slab_dim(p.expand(shape)) for p in probes.get(used) or ()}
        size = _shape(used)
        for dim in found:
            back = dim - len(shape)
            if -back <= len(size) and size[back] > 1 and dim not in own:
                raise _refuse(node, f"adds something made for {tokens} tokens")
    return list(found.values())


def _attention(node: fx.Node, probes: dict[fx.Node, Any], tokens: int) -> Probes:
    query, shape = node.args[0], _shape(node)
    assert isinstance(query, fx.Node)
    mask = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    if isinstance(mask, fx.Node) and not probes.get(mask):
        if tokens in _shape(mask)[-2:]:
            raise _refuse(node, f"has a mask made for {tokens} tokens")
    return [p[..., :1].expand(shape) for p in probes.get(query) or ()]


def _matmul(node: fx.Node, probes: dict[fx.Node, Any]) -> Probes:
    left, right = node.args[:2]
    shape, found = _shape(node), []
    assert isinstance(left, fx.Node)
    assert isinstance(right, fx.Node)
    for probe in probes.get(left) or ():
        if slab_dim(probe) != probe.ndim - 1:
            found.append(probe[..., :1].expand(shape))
    for probe in probes.get(right) or ():
        if slab_dim(probe) == probe.ndim - 1:
            found.append(probe[..., :1, :].expand(shape))
    return found


def _moved(
    node: fx.Node, probes: dict[fx.Node, Any], count: fx.Node, tokens: int
) -> Any:
    source = node.args[0]
    if not isinstance(source, fx.Node):
        raise _refuse(node, "moves several values at once")
    if isinstance(source.meta.get("val"), (tuple, list)):
        at: Any = node.args[1]
        return [p[at] for p in probes[source]]
    found: Probes = []
    for probe in probes[source]:
        if slab_dim(probe) in by_place(node) and called(node) != "roll":
            raise _refuse(node, "picks tokens by their places")
        moved = _run(node, probe)
        if isinstance(moved, Tensor):
            dim = slab_dim(moved)
            if dim is None:
                continue  # one token was picked
            if called(node) in _SIZED:
                _free(node, dim, moved.shape[dim], count, tokens)
            found.append(moved)
        else:
            found.append(moved)
    return found


def _run(node: fx.Node, probe: Tensor) -> Any:
    def value(used: fx.Node) -> Any:
        known = used.meta.get("val")
        if isinstance(known, Tensor):
            return known
        return _number(used)

    args: Any = fx.node.map_arg(node.args[1:], value)
    kwargs: Any = fx.node.map_arg(node.kwargs, value)
    if called(node) in ("view", "reshape"):
        sizes = args[0] if isinstance(args[0], (tuple, list)) else args
        return probe.reshape(*sizes)
    if node.op == "call_method":
        return getattr(probe, str(node.target))(*args, **kwargs)
    assert callable(node.target)
    return node.target(probe, *args, **kwargs)


def _number(node: fx.Node) -> Any:
    """A size's number in the example call."""
    if node.target == "size" and isinstance(node.args[0], fx.Node):
        dim: Any = node.args[1]
        return _shape(node.args[0])[dim]
    args = [_number(a) if isinstance(a, fx.Node) else a for a in node.args]
    assert callable(node.target)
    return node.target(*args)


def _counts_tokens(node: fx.Node) -> bool:
    """Whether a size is that of an earlier selection."""
    source = node.args[0]
    return isinstance(source, fx.Node) and source.target in (
        select_tokens,
        take_tokens,
    )


def _free(node: fx.Node, dim: int, size: int, count: fx.Node, tokens: int) -> None:
    """Replaces a written size by one that follows the number of tokens."""
    first: Any = node.args[1]
    packed = len(node.args) == 2 and isinstance(first, (tuple, list))
    sizes: list[Any] = list(first) if packed else list(node.args[1:])
    given = sizes[dim]
    if given == -1 or (isinstance(given, fx.Node) and not _counts_tokens(given)):
        return
    sizes[dim] = count
    if size != tokens:
        with node.graph.inserting_before(node):
            rest = size // tokens
            sizes[dim] = node.graph.call_function(operator.mul, (count, rest))
    node.args = (node.args[0], tuple(sizes)) if packed else (node.args[0], *sizes)
