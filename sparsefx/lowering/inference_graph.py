"""A recorded program as a plain graph module for inference.

Its tensors are buffers that share memory with the model's, its flags are those of
eval mode, dropouts are gone. It can be compiled, exported and pickled, and needs
neither the model nor sparsefx's guards.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor, fx, nn

from sparsefx.errors import SparsefxError
from sparsefx.passes.shrink_units import ShrinkUnits
from sparsefx.torch_internals import (
    TreeSpec,
    is_exporting,
    tree_flatten,
    tree_unflatten,
)
from sparsefx.tracing.capture import capture
from sparsefx.tracing.example_calls import Call, as_call, doubled, resized
from sparsefx.tracing.graph_module import assembled
from sparsefx.tracing.object_trees import unbox
from sparsefx.tracing.preserve import in_eval
from sparsefx.tracing.program import Program
from sparsefx.tracing.verify import difference

_DROPOUTS = (nn.modules.dropout._DropoutNd,)


@dataclass(frozen=True, slots=True)
class Signature:
    """How a call's arguments become a graph's inputs, and its outputs the result.

    Attributes:
        inputs: ``(args, kwargs)`` with a number in place of each leaf.
        output: the module's output likewise; None if it is the graph's.
        leaves: the example's leaves: shape, with None for the batch size where the
            graph holds for others, and type of tensors; other values as is.
        least: the smallest batch size the graph holds for.
    """

    inputs: Any
    output: Any
    leaves: tuple[Any, ...]
    least: int = 1

    def tensors(self, args: Any, kwargs: Any) -> list[Tensor] | None:
        """The graph's inputs from a call's arguments; None if it is for others.

        Example:
            >>> import torch
            >>> _, signature = graph_of(nn.Linear(2, 3), (torch.ones(4, 2),))
            >>> len(signature.tensors((torch.ones(7, 2),), {}))
            1
            >>> signature.tensors((torch.ones(7, 5, 2),), {}) is None
            True
        """
        leaves, spec = tree_flatten((args, kwargs))
        if spec != tree_flatten(self.inputs)[1]:
            return None
        pairs = list(zip(leaves, self.leaves, strict=True))
        if not all(_fits(leaf, known) for leaf, known in pairs):
            return None
        if not is_exporting():  # there it may be a symbol
            free = [a.shape[0] for a, b in pairs if _is_free(b)]
            if free and (free.count(free[0]) < len(free) or free[0] < self.least):
                return None
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def result(self, out: Any) -> Any:
        """The module's output from the graph's."""
        if self.output is None:
            return out
        spec = tree_flatten(self.output)[1]
        many = spec.num_leaves != 1
        return unbox(tree_unflatten(list(out) if many else [out], spec))


def graph_of(
    model: nn.Module, example_inputs: Any, *, shrink: bool = False
) -> tuple[fx.GraphModule, Signature] | str:
    """A model as one plain graph for inference, or why it is none.

    Args:
        model: any module; it is left as it was, and shares its tensors.
        example_inputs: a tuple of positional inputs or a dict of keyword inputs.
        shrink: without the heads and neurons whose weights are zero, as `ShrinkUnits`
            finds them; what is left of cut weights is new memory.

    Example:
        >>> import torch
        >>> module, _ = graph_of(nn.Linear(2, 3), (torch.ones(4, 2),))
        >>> module(torch.zeros(4, 2)).shape
        torch.Size([4, 3])
    """
    found = capture(model, example_inputs, verify=False)
    program = found.programs.get("")
    if program is None:
        return found.reasons.get("", "it could not be recorded")
    if program.one_batch:
        return f"its graph is for one batch size only: {program.one_batch}"
    call = as_call(example_inputs)
    with in_eval(model):  # flags that the graph reads become constants
        return _plain(program, model, shrink), _signature(program, model, call)


def _plain(program: Program, root: nn.Module, shrink: bool) -> fx.GraphModule:
    part = list(program.parts())[-1][1]
    bound = part.module(root)
    if shrink and any(map(_has_zero_line, root.parameters())):
        bound = _shrunk(bound)
    graph = copy.deepcopy(bound.graph)
    held: dict[str, Any] = {}
    for node in list(graph.nodes):
        node.meta = {"module": node.meta.get("module", "")}
        if node.op == "get_attr":
            value = attrgetter(node.target)(bound)
            if isinstance(value, Tensor):
                held[node.target] = value.detach()
            else:
                _written_in(node, value)
                graph.erase_node(node)
        elif node.op == "call_module":
            module = bound.get_submodule(node.target)
            if isinstance(module, _DROPOUTS):
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
            else:
                held[node.target] = _frozen(module)
    return assembled(graph, held, name="Lowered").eval()


def _signature(program: Program, root: nn.Module, example: Call) -> Signature:
    part = list(program.parts())[-1][1]
    leaves, spec = tree_flatten(example)
    known, least = tuple(map(_leaf, leaves)), 1
    batch = program.batch
    if batch is not None and not program.guards:
        known = tuple(
            leaf[:2] if isinstance(leaf, tuple) else leaf for leaf in program.signature
        )
        one = resized(doubled(example), batch, 1)
        least = 2 if difference(program, root, *one, training=False) else 1
    return Signature(
        _numbered(spec if part.inputs is None else part.inputs),
        None if part.output is None else _numbered(part.output),
        known,
        least,
    )


def _has_zero_line(weight: Tensor) -> bool:
    """Whether a row or a column of a matrix, or a channel of a kernel, is zero."""
    if weight.ndim < 2:
        return False
    kept = weight.detach() != 0
    rows, columns = kept.flatten(1).any(1), kept.transpose(0, 1).flatten(1).any(1)
    return not bool(rows.all() and columns.all())


def _shrunk(module: fx.GraphModule) -> fx.GraphModule:
    """The graph without idle units; where that fails, as it is, and the reason."""
    try:
        return ShrinkUnits()(module)
    except SparsefxError as error:
        told = f"no heads, neurons or channels are cut out of the graph: {error}"
        warnings.warn(told, stacklevel=2)
        return module


def _numbered(spec: TreeSpec) -> Any:
    """A tree of that form: unlike its description, it can be pickled."""
    return tree_unflatten(range(spec.num_leaves), spec)


def _written_in(node: fx.Node, value: Any) -> None:
    """Puts a constant in place of the node that reads it."""
    for user in list(node.users):
        user.args = fx.map_arg(user.args, lambda n: value if n is node else n)
        user.kwargs = fx.map_arg(user.kwargs, lambda n: value if n is node else n)


def _frozen(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module).eval()
    for value in twin.parameters():
        value.requires_grad_(False)
    return twin


def _leaf(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _fits(leaf: Any, known: Any) -> bool:
    if not isinstance(leaf, Tensor):
        return type(leaf) is type(known) and bool(leaf == known)
    if not isinstance(known, tuple):
        return False
    shape, dtype = known
    same = leaf.ndim == len(shape) and leaf.dtype == dtype
    return same and all(
        size is None or (isinstance(there, int) and there == size)
        for there, size in zip(leaf.shape, shape, strict=True)
    )


def _is_free(known: Any) -> bool:
    return isinstance(known, tuple) and known[0][:1] == (None,)
