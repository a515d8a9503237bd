"""Which parameter an operand of a node is, and what it passed through to get there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from sparsefx.errors import CaptureError

Size = int | torch.SymInt

# What a weight may pass through and still be used entry by entry. (`expand` repeats
# every entry equally, so the share of each is still the same.)
_VIEWS = frozenset(
    "t transpose swapaxes permute movedim moveaxis reshape view flatten unflatten "
    "squeeze unsqueeze contiguous to type type_as float half bfloat16 double clone "
    "expand expand_as broadcast_to T mT adjoint".split()
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What is known of a graph while its nodes are priced.

    Attributes:
        names: parameter names by ``get_attr`` target.
        symbolic: the graph has a symbolic batch.
        prefix: path of the captured module in the whole model.
    """

    names: Mapping[str, str]
    symbolic: bool
    prefix: str = ""

    @classmethod
    def of(cls, graph: fx.Graph, names: Mapping[str, str], prefix: str = "") -> Scope:
        """Reads whether the graph has symbolic sizes."""
        values = (node.meta.get("val") for node in graph.nodes)
        symbolic = any(
            isinstance(size, torch.SymInt)
            for value in values
            if isinstance(value, torch.Tensor)
            for size in value.shape
        )
        return cls(names, symbolic, prefix)

    def parameter(self, node: object) -> str | None:
        """The parameter that a node is a view or cast of, or None."""
        while isinstance(node, fx.Node):
            if node.op == "get_attr":
                name = self.names.get(str(node.target))
                value = node.meta.get("val")
                if name is None or not isinstance(value, torch.Tensor):
                    return None
                return name if value.ndim >= 2 and value.is_floating_point() else None
            label = node.args[1] if node.target is getattr else label_of(node)
            if label not in _VIEWS:
                return None
            node = node.args[0] if node.args else None
        return None

    def behind(self, node: object) -> Iterator[str]:
        """Parameters that a node is computed from, if from nothing else."""
        if not isinstance(node, fx.Node):
            return
        seen, stack = {node: None}, [node]
        while stack:
            top = stack.pop()
            if top.op == "placeholder":
                return
            fresh = [n for n in top.all_input_nodes if n not in seen]
            seen.update(dict.fromkeys(fresh))
            stack.extend(fresh)
        targets = (str(node.target) for node in seen if node.op == "get_attr")
        yield from (self.names[target] for target in targets if target in self.names)

    def module(self, node: fx.Node) -> str:
        """Path, in the whole model, of the module that runs a node."""
        inner = str(node.meta.get("module", ""))
        return ".".join(part for part in (self.prefix, inner) if part)


def label_of(node: fx.Node) -> str:
    """The name of the function or method that a node calls."""
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def shape_of(node: object) -> tuple[Size, ...]:
    """Sizes of a node's value, possibly symbolic.

    Raises:
        CaptureError: the graph carries no recorded value there.
    """
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, torch.Tensor):
        raise CaptureError(
            f"node {node} has no recorded value in node.meta['val']; run "
            "torch.fx.passes.fake_tensor_prop.FakeTensorProp on the graph first"
        )
    return tuple(value.shape)


def argument(node: fx.Node, position: int, name: str) -> object:
    """An argument of a node, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)
