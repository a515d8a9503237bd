"""Sparse Doped: dense low-rank factors beside a sparse weight."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from sparsefx.passes.iso_flop.factor_pair import FACTORS, factor_calls, factor_shapes
from sparsefx.passes.iso_flop.initial_weights import drawn, energy_of, moments
from sparsefx.passes.iso_flop.iso_flop_pass import IsoFlopPass
from sparsefx.passes.iso_flop.layer_rewrite import LayerRewrite
from sparsefx.passes.iso_flop.replaceable_layers import (
    LayerSite,
    is_batch_norm,
    tail_of,
)


@dataclass(frozen=True, slots=True)
class SparseDoped(IsoFlopPass):
    """Adds dense low-rank factors to a layer and thins its weight out for them.

    With ``K`` kernel positions the rank is
    ``d = floor((1 - density) K Ci Co / (K Ci + Co))``; the sparse weight keeps the
    ``K Ci Co - d (K Ci + Co)`` entries that the factors leave, so the cost is equal
    exactly. The factors stay dense: they are in no mask. Grouped convolutions, and
    layers whose rank would be 0, are left as they are.

    Before, and after (``activation="branch"``)::

        y = F.linear(x, w, b)     s = torch.relu(F.linear(x, w, b))
        y = torch.relu(y)         y = s + F.linear(F.linear(x, w_in), w_out)

    Beside the options of `IsoFlopPass`:

    Attributes:
        density: kept fraction of the weight, in (0, 1]; the rounding of the rank makes
            it a little higher.
        round_to: the rank is a multiple of it.
        activation: ``"branch"``: norm and activation that follow the layer are on the
            sparse branch alone, as in the paper (only where there is an activation);
            ``"sum"``: they come after the sum, as in the authors' code.
        init: ``"redraw"``: new weights; ``"keep"``: the dense weight as it is, and a
            low-rank part that starts at 0.

    Raises:
        PolicyError: an option is not allowed, or no layer is left to replace.
        CaptureError: the graph has no recorded values.

    Example:
        >>> from sparsefx.tracing.capture import capture
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Linear(64, 128),
        ...                           torch.nn.ReLU(), torch.nn.Linear(128, 2))
        >>> graph = capture(net, (torch.randn(3, 4),)).graphs[""]
        >>> doped = SparseDoped(density=0.25)(graph)
        >>> doped.get_parameter("1.factor_in.weight").shape[0]
        32
        >>> from sparsefx.passes.iso_flop.record import record_of
        >>> record_of(doped).kept
        {'1.weight': 2048}
    """

    iso: Literal["layer", "model"] = "layer"
    activation: Literal["branch", "sum"] = "branch"

    def rank(self, inputs: int, outputs: int, positions: int = 1) -> int:
        """The rank of the dense part.

        Args:
            inputs: input channels.
            outputs: output channels.
            positions: entries of the kernel.

        Example:
            >>> [SparseDoped(s).rank(64, 128) for s in (0.5, 0.25, 0.1)]
            [21, 32, 38]
        """
        dense = positions * inputs * outputs
        ideal = (1 - self.density) * dense / (positions * inputs + outputs)
        return math.floor(ideal / self.round_to + 1e-9) * self.round_to

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """A new graph module with tensors of its own; ``graph_module`` stays."""
        work = LayerRewrite.of(graph_module, "sparse_doped", self.select, self.iso)
        for site in work.sites:
            inputs, outputs, positions = site.sizes
            if site.transposed:
                rank = self.rank(outputs, inputs, positions)
            else:
                rank = self.rank(inputs, outputs, positions)
            if site.groups > 1:
                work.left[site.name] = "a grouped convolution has no such factors"
            elif self.density == 1:
                work.keep_dense(site)
            elif rank == 0:
                work.left[site.name] = "its rank would be 0: too small to be doped"
            else:
                self._replace(work, site, rank)
        return work.finish()

    def _replace(self, work: LayerRewrite, site: LayerSite, rank: int) -> None:
        weight = work.root.get_parameter(site.name)
        shapes = factor_shapes(site, rank)
        count = site.numel - sum(math.prod(shape) for shape in shapes)
        energy, outputs = energy_of(weight), site.sizes[1]
        share = count / site.numel  # of the output's variance, as of its cost
        tail = tail_of(site.calls[0])
        inside = self.activation == "branch" and tail.activation is not None
        variance = energy / outputs
        if inside and is_batch_norm(work.root, tail.norm):
            variance = 1.0
            _scaled(work, tail.norm, math.sqrt(share))
        if inside:
            variance *= moments(tail.activation)[1]
        low_rank = (variance * rank, outputs * (1 - share))
        work.kept[site.name] = count
        work.energies[site.name] = energy
        if self.init == "redraw":
            work.energies[site.name] = energy * share
            with torch.no_grad():
                weight.copy_(drawn(site.shape, energy * share, count, weight))
        names = []
        for name, shape, power in zip(FACTORS, shapes, low_rank, strict=True):
            value = drawn(shape, power, math.prod(shape), weight)
            zero = self.init == "keep" and name == FACTORS[1]
            names.append(work.share(site, name, value * 0 if zero else value))
        for call in site.calls:
            tail = tail_of(call)
            last = tail.activation if inside else call
            assert last is not None
            after = last.next
            with work.graph.inserting_before(after):
                first, second = factor_calls(work, site, call, names, None)
                out = work.graph.call_function(operator.add, (last, second(first)))
            work.replace(last, out)


def _scaled(work: LayerRewrite, norm: fx.Node | None, factor: float) -> None:
    """Leaves room for the low-rank part in what a batch norm gives."""
    assert norm is not None
    scale = getattr(work.root.get_submodule(str(norm.target)), "weight", None)
    if scale is not None:
        with torch.no_grad():
            scale.mul_(factor)
