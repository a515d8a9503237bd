"""What every pass is: a frozen dataclass, called on a graph that holds together."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import fx


class Pass(ABC):
    """A rewrite of graphs, or an annotation; its fields are its options.

    A pass is called on a `torch.fx.GraphModule` and returns one; the graph lints before
    and after, and what it is called with stays.

    Attributes:
        in_place: whether it changes the module it is given and returns that one; else
            that stays as it is, and what is returned has tensors of its own.

    Example:
        >>> import operator
        >>> import torch
        >>> class Swap(Pass):
        ...     in_place = True
        ...     def rewrite(self, graph_module):
        ...         for node in graph_module.graph.nodes:
        ...             if node.target is operator.add:
        ...                 node.target = operator.sub
        ...         return graph_module
        >>> Swap()(fx.symbolic_trace(lambda x: x + 1))(torch.ones(1))
        tensor([0.])
    """

    __slots__ = ()
    in_place: ClassVar[bool] = False

    def __call__(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """The rewritten graph module."""
        _lint(graph_module)
        made = self.rewrite(graph_module)
        _lint(made)
        if self.in_place:
            made.recompile()
        return made

    @abstractmethod
    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """What the pass does, between the checks."""


def _lint(graph_module: fx.GraphModule) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # flags of modules are attributes, not tensors
        graph_module.graph.lint()
