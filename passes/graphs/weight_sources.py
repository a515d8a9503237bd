"""Which parameter an operand of a node is, and what it passed through to get there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from sparsefx.errors import CaptureError
from sparsefx.passes.graphs.fake_quantization import keeps_zeros
from sparsefx.tracing.operations import KEEPING, SCALING, called

Size = int | torch.SymInt


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
        """The parameter that a node is a view, a cast or a multiple of, or None."""
        source = self.source(node)
        return None if source is None else self.names[str(source.target)]

    def source(self, node: object) -> fx.Node | None:
        """The ``get_attr`` node of that parameter."""
        while isinstance(node, fx.Node):
            if node.op == "get_attr":
                value = node.meta.get("val")
                known = str(node.target) in self.names
                if not known or not isinstance(value, torch.Tensor):
                    return None
                wide = value.ndim >= 2 and value.is_floating_point()
                return node if wide else None
            label = called(node)
            if label in SCALING:
                return self._scaled(node)
            if label not in KEEPING and not keeps_zeros(node):
                return None
            node = node.args[0] if node.args else None
        return None

    def _scaled(self, node: fx.Node) -> fx.Node | None:
        """The weight among the factors of a product, if it is one and no other."""
        parts = node.args if "mul" in label_of(node) else node.args[:1]
        shape = shape_of(node)
        found = [
            source
            for part in parts
            if isinstance(part, fx.Node) and _shape(part) == shape
            if (source := self.source(part)) is not None
        ]
        return found[0] if len(found) == 1 else None

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


def _shape(node: fx.Node) -> tuple[Size, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def argument(node: fx.Node, position: int, name: str) -> object:
    """An argument of a node, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)
