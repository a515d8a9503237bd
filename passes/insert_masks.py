"""Puts a mask node on every selected weight of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn

from sparsefx.masking.state_keys import CHILD
from sparsefx.passes.graphs.graph_pass import Pass


@dataclass(frozen=True, slots=True)
class InsertMasks(Pass):
    """Rewrites ``weight -> layer`` to ``weight -> masked weight -> layer``.

    Before, and after::

        fc_weight = self.fc.weight           fc_weight = self.fc.weight
        linear = F.linear(x, fc_weight)      fc_weight_masked =
                                               self._sparsefx.weights.masked_weight_0(
                                                 fc_weight)
                                             linear = F.linear(x, fc_weight_masked)

    The nodes are the same for every learner, before and after masks stand still.

    Attributes:
        sites: site number by the graph's name of the weight.
        root: the module that holds the masks' state, under the path's first name.
        path: where the graph finds the masks' nodes.

    Example:
        >>> import sparsefx, torch
        >>> inputs = (torch.ones(3, 4),)
        >>> sparse = sparsefx.transform(nn.Linear(4, 2), example_inputs=inputs)
        >>> "masked_weight" in sparsefx.graphs(sparse)[""].code
        True
    """

    sites: Mapping[str, int]
    root: nn.Module
    path: str = f"{CHILD}.weights"

    in_place: ClassVar[bool] = True

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Rewrites in place and returns the same module."""
        graph = graph_module.graph
        graph_module._modules.setdefault(self.path.partition(".")[0], self.root)
        for weight in list(graph.nodes):
            if weight.op != "get_attr" or weight.target not in self.sites:
                continue
            users = list(weight.users)
            target = f"{self.path}.masked_weight_{self.sites[weight.target]}"
            with graph.inserting_after(weight):
                masked = graph.create_node(
                    "call_module", target, (weight,), name=f"{weight.name}_masked"
                )
            masked.meta = dict(weight.meta)
            for user in users:
                user.replace_input_with(weight, masked)
        return graph_module
