"""A graph while its layers are being replaced one by one at equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, fx, nn

from sparsefx.passes.costs.graph_costs import Prices, macs_of
from sparsefx.passes.graphs.owned_graph import note_values, own_graph
from sparsefx.passes.iso_flop.initial_weights import energy_of
from sparsefx.passes.iso_flop.record import KEY, IsoFlop, paid
from sparsefx.passes.iso_flop.replaceable_layers import LayerSite, as_linear, sites_of
from sparsefx.tracing.graph_module import assembled, held_by, place


@dataclass(slots=True)
class LayerRewrite:
    """The graph under work, and what has been decided so far.

    Attributes:
        root: a graph module of its own.
        member: name of the rewrite.
        sites: the layers to replace.
        left: those left, with the reason.
        before: costs of the graph as it was given.
        whole: the sparse weights also pay for the norms that were added.
        kept: entries to keep, by new weight.
        energies: their energies; see `sparsefx.passes.iso_flop.initial_weights`.
    """

    root: fx.GraphModule
    member: str
    sites: list[LayerSite]
    left: dict[str, str]
    before: Prices
    whole: bool
    kept: dict[str, int] = field(default_factory=dict)
    energies: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        graph_module: fx.GraphModule,
        member: str,
        select: str | Sequence[str],
        iso: str,
    ) -> LayerRewrite:
        """Copies a graph and finds the layers to replace.

        Args:
            graph_module: the graph.
            member: name of the rewrite.
            select: the layers; see `sites_of`.
            iso: ``"layer"`` or ``"model"``: what keeps its cost.
        """
        root = own_graph(graph_module)
        as_linear(root)
        sites, left = sites_of(root, select)
        return cls(root, member, sites, left, Prices.of(root), iso == "model")

    @property
    def graph(self) -> fx.Graph:
        """The nodes."""
        return self.root.graph

    def keep_dense(self, site: LayerSite) -> None:
        """Leaves a layer as it is, under a mask that keeps everything."""
        weight = self.root.get_parameter(site.name)
        self.kept[site.name] = site.numel
        self.energies[site.name] = energy_of(weight)

    def add(
        self, site: LayerSite, name: str, value: Tensor, count: int, energy: float
    ) -> str:
        """A new weight that keeps ``count`` entries; returns its full name."""
        full = self.share(site, name, value)
        if count < value.numel():
            self.kept[full], self.energies[full] = count, energy
        return full

    def share(self, site: LayerSite, name: str, value: Tensor) -> str:
        """A new parameter beside a layer's, made once; returns its full name."""
        return self.share_as(f"{site.module}.{name}" if site.module else name, value)

    def share_as(self, name: str, value: Tensor) -> str:
        """A new parameter under a full name, made once."""
        if name not in dict(self.root.named_parameters(remove_duplicate=False)):
            place(self.root, name, nn.Parameter(value.detach().clone()))
        return name

    def share_module(self, path: str, module: nn.Module) -> str:
        """A new submodule, made once."""
        if path not in dict(self.root.named_modules()):
            place(self.root, path, module)
        return path

    def read(self, name: str, near: fx.Node) -> fx.Node:
        """A node that reads a parameter, at the insertion point."""
        node = self.graph.create_node("get_attr", name)
        node.meta["module"] = near.meta.get("module", "")
        return node

    def value(self, node: fx.Node) -> Tensor:
        """The tensor that a ``get_attr`` node reads."""
        return self.root.get_parameter(str(node.target)).detach()

    def is_parameter(self, node: fx.Node) -> bool:
        """Whether a node reads a parameter."""
        names = dict(self.root.named_parameters(remove_duplicate=False))
        return str(node.target) in names

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Gives what read ``old`` the new node, and removes what nothing reads."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    def finish(self) -> fx.GraphModule:
        """The new graph module, with its record."""
        for node in self.graph.nodes:
            node.meta.setdefault("module", "")
        made = assembled(self.graph, held_by(self.root), self.root)
        note_values(made)
        after = Prices.of(made)
        if self.whole:
            # the part of a percent that norms cost hardly moves what weights carry
            prices = after.each()
            counts = {n: count for n, count in self.kept.items() if n in prices}
            more = max(after.norms - self.before.norms, 0)
            self.kept.update(paid(more, counts, prices))
        macs = macs_of(self.before, after, self.kept)
        made.meta[KEY] = IsoFlop(self.member, self.kept, self.energies, self.left, macs)
        return made
