"""Sparse Parallel: several sparse branches that together cost what one layer did."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from sparsefx.passes.graphs.weight_sources import argument
from sparsefx.passes.iso_flop.initial_weights import drawn, energy_of
from sparsefx.passes.iso_flop.iso_flop_pass import IsoFlopPass
from sparsefx.passes.iso_flop.layer_rewrite import LayerRewrite
from sparsefx.passes.iso_flop.record import shared
from sparsefx.passes.iso_flop.replaceable_layers import (
    LayerSite,
    is_activation,
    tail_of,
)


@dataclass(frozen=True, slots=True)
class SparseParallel(IsoFlopPass):
    """Replaces a layer by ``sum_j act(norm_j(layer_j(x))) / sqrt(k)``, k branches.

    ``k = ceil(1 / density)``; the branches together keep as many entries as the dense
    weight had, so the cost is equal exactly, for every layer and any grouping.

    Before, and after (density 0.5)::

        y = F.linear(x, w, b)       a = torch.relu(F.linear(x, w0, b0))
        y = torch.relu(y)           c = torch.relu(F.linear(x, w1, b1))
                                    y = (a + c) * 0.7071

    Beside the options of `IsoFlopPass`:

    Attributes:
        density: kept fraction of each branch, in (0, 1]; ``1 / ceil(1 / density)`` is
            what the branches have.
        round_to: the number of branches is a multiple of it.
        activation: ``"branch"``: norm and activation that follow the layer go into
            each branch, as in the paper; ``"sum"``: only the norm does (the authors'
            CIFAR networks; such branches are one linear map); ``"always"``: as branch,
            with a ReLU where none follows.
        init: ``"redraw"``: new weights, of the dense weights' variance corrected for
            density; ``"keep"``: each dense entry goes to one branch, so that the sum
            of linear branches is the dense layer.

    Raises:
        PolicyError: an option is not allowed, or no layer is left to replace.
        CaptureError: the graph has no recorded values.

    Example:
        >>> from sparsefx.tracing.capture import capture
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Linear(64, 128),
        ...                           torch.nn.ReLU(), torch.nn.Linear(128, 2))
        >>> graph = capture(net, (torch.randn(3, 4),)).graphs[""]
        >>> wide = SparseParallel(density=0.25)(graph)
        >>> from sparsefx.passes.iso_flop.record import record_of
        >>> record_of(wide).kept["1.branches.0.weight"]
        2048
    """

    iso: Literal["layer", "model"] = "layer"
    activation: Literal["branch", "sum", "always"] = "branch"

    @property
    def branches(self) -> int:
        """How many branches a layer gets.

        Example:
            >>> SparseParallel(density=0.3).branches
            4
        """
        # 1 / 0.1 is not 10 in floats: a branch more only for a real remainder
        ideal = math.ceil(1 / self.density - 1e-9)
        return -(-ideal // self.round_to) * self.round_to

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """A new graph module with tensors of its own; ``graph_module`` stays."""
        work = LayerRewrite.of(graph_module, "sparse_parallel", self.select, self.iso)
        for site in work.sites:
            if self.branches == 1:
                work.keep_dense(site)
            else:
                self._replace(work, site)
        return work.finish()

    def _replace(self, work: LayerRewrite, site: LayerSite) -> None:
        k = self.branches
        dense = work.root.get_parameter(site.name).detach()
        counts = shared(site.numel, [site.numel] * k)
        energy = energy_of(dense)
        weights = (
            _parted(dense, counts)
            if self.init == "keep"
            else [drawn(site.shape, energy, count, dense) for count in counts]
        )
        names = []
        for j, (value, count) in enumerate(zip(weights, counts, strict=True)):
            kept = energy_of(value) if self.init == "keep" else energy
            name = f"branches.{j}.weight"
            names.append(work.add(site, name, value, count, kept))
        for call in site.calls:
            self._branch(work, site, call, names)

    def _branch(
        self, work: LayerRewrite, site: LayerSite, call: fx.Node, names: Sequence[str]
    ) -> None:
        tail = tail_of(call)
        follows = tail.activation if self.activation != "sum" else None
        chain = [n for n in (call, tail.norm, follows) if n is not None]
        last = chain[-1]
        bias = argument(call, 2, "bias")
        outs = []
        for j, name in enumerate(names):
            with work.graph.inserting_before(last):
                swaps = {_weight(call): work.read(name, call)}
                if isinstance(bias, fx.Node):
                    value = work.value(bias) / math.sqrt(len(names))
                    owned = work.share(site, f"branches.{j}.bias", value)
                    swaps[bias] = work.read(owned, call)
                for node in chain:
                    twin = work.graph.node_copy(node, partial(_swapped, swaps))
                    if node.op == "call_module":
                        path = f"{node.target}_branches.{j}"
                        module = work.root.get_submodule(str(node.target))
                        twin.target = work.share_module(path, copy.deepcopy(module))
                    elif node is tail.norm:
                        _own_affine(work, twin, j)
                    swaps[node] = twin
                if self.activation == "always" and not is_activation(last):
                    twin = work.graph.call_function(F.relu, (twin,))
                outs.append(twin)
        with work.graph.inserting_before(last):
            total = outs[0]
            for out in outs[1:]:
                total = work.graph.call_function(operator.add, (total, out))
            scaled = work.graph.call_function(
                operator.mul, (total, 1 / math.sqrt(len(outs)))
            )
        work.replace(last, scaled)


def _swapped(swaps: Mapping[fx.Node, fx.Node], node: fx.Node) -> fx.Node:
    return swaps.get(node, node)


def _weight(call: fx.Node) -> fx.Node:
    weight = argument(call, 1, "weight")
    assert isinstance(weight, fx.Node)
    return weight


def _own_affine(work: LayerRewrite, norm: fx.Node, branch: int) -> None:
    """Gives a functional norm of a branch scale and shift of its own."""
    for node in list(norm.all_input_nodes)[1:]:
        if node.op == "get_attr" and work.is_parameter(node):
            path, _, leaf = str(node.target).rpartition(".")
            name = ".".join(
                part for part in (path, "branches", str(branch), leaf) if part
            )
            with work.graph.inserting_before(norm):
                own = work.read(work.share_as(name, work.value(node)), norm)
            norm.replace_input_with(node, own)


def _parted(dense: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Each entry to one branch, at random, times the square root of their number."""
    order = torch.randperm(dense.numel(), device=dense.device)
    parts = []
    for chosen in torch.split(order, list(counts)):
        part = torch.zeros_like(dense).flatten()
        part[chosen] = dense.flatten()[chosen] * math.sqrt(len(counts))
        parts.append(part.view_as(dense))
    return parts
