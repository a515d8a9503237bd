"""Puts a mask node on every selected weight of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx, nn

from sparsefx.kernels.mask_rule import MaskScalars
from sparsefx.masking.kept_masks import KeptMasks, kept_weight
from sparsefx.masking.masked_groups import masked_groups
from sparsefx.masking.masked_weight import masked_weight
from sparsefx.masking.sparse_state import SparseState
from sparsefx.masking.state_keys import CHILD
from sparsefx.passes.graphs.graph_pass import Pass


@dataclass(frozen=True, slots=True)
class InsertMasks(Pass):
    """Rewrites ``weight -> layer`` to ``weight -> masked_weight -> layer``.

    Before, and after (mask parameters are read once, at the top)::

        fc_weight = self.fc.weight                fc_weight = self.fc.weight
        linear = F.linear(x, fc_weight)           masked = masked_weight(fc_weight, mu,
                                                      slope, center, threshold, last,
                                                      through, 0)
                                                  linear = F.linear(x, masked)

    Weights that live and die in groups get ``masked_groups(..., 0, '2:4', 'linear')``.
    Where the state keeps its masks as tensors (`sparsefx.masking.kept_masks`), the node
    is ``kept_weight(fc_weight, mask_0, None, mu, through, 0)``.

    Attributes:
        sites: site number by the graph's name of the weight.
        state: the module that holds the mask parameters.
        root: the module that holds the state, under the path's last name.
        path: where the graph finds the state.
    """

    sites: Mapping[str, int]
    state: SparseState
    root: nn.Module
    path: str = f"{CHILD}.weights"

    in_place: ClassVar[bool] = True

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Rewrites in place and returns the same module."""
        graph_module._modules.setdefault(self.path.partition(".")[0], self.root)
        rules, kept = self.state.rules, self.state.kept
        insert(graph_module.graph, self.sites, self.path, rules, kept)
        return graph_module


def insert(
    graph: fx.Graph,
    sites: Mapping[str, int],
    state: str,
    rules: Sequence[tuple[str, str]],
    kept: KeptMasks | None = None,
) -> None:
    """Inserts the nodes; see `InsertMasks`."""
    weights = [n for n in graph.nodes if n.op == "get_attr" and n.target in sites]
    if not weights:
        return
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    start = inputs[-1].next if inputs else next(iter(graph.nodes))

    def read(path: str, name: str) -> fx.Node:
        node = graph.create_node("get_attr", f"{state}.{path}", name=name)
        node.meta["module"] = state
        return node

    with graph.inserting_before(start):
        shared = MaskScalars._fields if kept is None else ("mu", "through")
        scalars = [read(name, name) for name in shared]
    for weight in weights:
        index = sites[str(weight.target)]
        users = list(weight.users)
        masks: list[fx.Node | None] = []
        if kept is not None:
            names = [f"mask_{index}", f"reach_{index}"][: 1 + kept.wide]
            with graph.inserting_before(weight):
                masks = [*(read(f"kept.{name}", name) for name in names), None][:2]
        with graph.inserting_after(weight):
            maker: Callable[..., Tensor] = kept_weight
            extra: tuple[str, ...] = ()
            if kept is None:
                plain = rules[index][0] == "unstructured"
                maker = masked_weight if plain else masked_groups
                extra = () if plain else rules[index]
            masked = graph.create_node(
                "call_function",
                maker,
                (weight, *masks, *scalars, index, *extra),
                name=f"{weight.name}_masked",
            )
        masked.meta = dict(weight.meta)
        for user in users:
            user.replace_input_with(weight, masked)
