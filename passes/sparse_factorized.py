"""Sparse Factorized: two sparse factors with a non-linearity between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, fx

from sparsefx.passes.graphs.weight_sources import argument
from sparsefx.passes.iso_flop.factor_pair import FACTORS, factor_calls, factor_shapes
from sparsefx.passes.iso_flop.initial_weights import drawn, energy_of, moments, resized
from sparsefx.passes.iso_flop.iso_flop_pass import IsoFlopPass
from sparsefx.passes.iso_flop.layer_rewrite import LayerRewrite
from sparsefx.passes.iso_flop.record import shared
from sparsefx.passes.iso_flop.replaceable_layers import (
    LayerSite,
    is_batch_norm,
    tail_of,
)

Between = Literal["follow", "relu", "gelu", "silu", "tanh", "linear"]
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": F.tanh,
}


@dataclass(frozen=True, slots=True)
class SparseFactorized(IsoFlopPass):
    """Replaces a layer by ``V act(norm(U x))`` with two sparse factors.

    With ``K`` kernel positions the width between them is
    ``d = ceil(K Ci Co / (density (K Ci + Co)))``; ``U`` has the kernel and the stride,
    ``V`` is 1x1 and has the bias (the other way round for a transposed convolution).
    The factors together keep as many entries as the dense weight had, so the cost is
    equal exactly. Grouped convolutions are left as they are.

    Before, and after (a convolution with a batch norm behind it)::

        y = F.conv2d(x, w, b, 2, 1)    u = F.conv2d(x, w_in, None, 2, 1)
        y = bn(y)                      u = torch.relu(factor_norm(u))
                                       y = bn(F.conv2d(u, w_out, b))

    Beside the options of `IsoFlopPass`:

    Attributes:
        density: kept fraction of both factors, in (0, 1].
        round_to: ``d`` is a multiple of it.
        iso: Literal["layer", "model"] = "layer"
    activation: what is between the factors: ``"follow"`` is the function that
            follows the layer, a ReLU after a batch norm without one, and nothing
            otherwise; or ``"relu"``, ``"gelu"``, ``"silu"``, ``"tanh"``, ``"linear"``.
            A layer with a batch norm gets one between its factors too.
        init: ``"redraw"``; a product of sparse factors cannot keep a dense weight.

    Raises:
        PolicyError: an option is not allowed, or no layer is left to replace.
        CaptureError: the graph has no recorded values.

    Example:
        >>> import torch
        >>> from sparsefx.tracing.capture import capture
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Linear(64, 128),
        ...                           torch.nn.ReLU(), torch.nn.Linear(128, 2))
        >>> graph = capture(net, (torch.randn(3, 4),)).graphs[""]
        >>> wide = SparseFactorized(density=0.5)(graph)
        >>> from sparsefx.passes.iso_flop.record import record_of
        >>> record_of(wide).kept
        {'1.factor_in.weight': 2731, '1.factor_out.weight': 5461}
    """

    iso: Literal["layer", "model"] = "layer"
    activation: Between = "follow"
    init: Literal["redraw"] = "redraw"

    def width(self, inputs: int, outputs: int, positions: int = 1) -> int:
        """The width between the factors.

        Args:
            inputs: input channels.
            outputs: output channels.
            positions: entries of the kernel.

        Example:
            >>> [SparseFactorized(s).width(64, 128) for s in (0.5, 0.25, 0.1)]
            [86, 171, 427]
        """
        dense = positions * inputs * outputs
        ideal = dense / ((positions * inputs + outputs) * self.density)
        return math.ceil(ideal / self.round_to - 1e-9) * self.round_to

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """A new graph module with tensors of its own; ``graph_module`` stays."""
        work = LayerRewrite.of(graph_module, "sparse_factorized", self.select, self.iso)
        for site in work.sites:
            if site.groups > 1:
                work.left[site.name] = "a grouped convolution has no such factors"
            else:
                self._replace(work, site)
        return work.finish()

    def _replace(self, work: LayerRewrite, site: LayerSite) -> None:
        dense = work.root.get_parameter(site.name).detach()
        inputs, outputs, positions = site.sizes
        if site.transposed:
            d = self.width(outputs, inputs, positions)
        else:
            d = self.width(inputs, outputs, positions)
        shapes = factor_shapes(site, d)
        sizes = [math.prod(shape) for shape in shapes]
        counts = shared(site.numel, sizes)
        tail = tail_of(site.calls[0])
        normed = is_batch_norm(work.root, tail.norm)
        act = self._between(tail.activation, normed)
        second = moments(tail.activation if act is None else None)[0]
        per_output = energy_of(dense) / outputs
        if act is not None:
            node = fx.Graph().call_function(act, (None,))
            second = moments(node)[0]
        elif self.activation == "linear" or tail.activation is None:
            second = 1.0
        # outputs of U vary as the dense ones did, or by 1 behind a norm
        passed = second * (1.0 if normed else per_output)
        energies = (per_output * d, outputs * per_output / max(passed, 1e-12))
        names = [
            work.add(site, name, drawn(shape, energy, count, dense), count, energy)
            for name, shape, energy, count in zip(
                FACTORS, shapes, energies, counts, strict=True
            )
        ]
        for call in site.calls:
            self._write(work, site, call, names, d, act)

    def _between(
        self, follows: fx.Node | None, normed: bool
    ) -> Callable[[Tensor], Tensor] | None:
        """The function between the factors; None takes the one that follows."""
        if self.activation in _FUNCTIONS:
            return _FUNCTIONS[self.activation]
        bare = self.activation == "follow" and follows is None and normed
        return F.relu if bare else None

    def _write(
        self,
        work: LayerRewrite,
        site: LayerSite,
        call: fx.Node,
        names: Sequence[str],
        width: int,
        act: Callable[[Tensor], Tensor] | None,
    ) -> None:
        tail = tail_of(call)
        bias = argument(call, 2, "bias")
        with work.graph.inserting_before(call):
            first, second = factor_calls(work, site, call, names, bias)
            inner = first
            if is_batch_norm(work.root, tail.norm):
                assert tail.norm is not None
                module = work.root.get_submodule(str(tail.norm.target))
                outputs = site.sizes[1]
                path = f"{site.module}.factor_norm".lstrip(".")
                work.share_module(path, resized(module, outputs, width))
                inner = work.graph.call_module(path, (inner,))
            if act is not None:
                inner = work.graph.call_function(act, (inner,))
            elif tail.activation is not None and self.activation == "follow":
                follows = tail.activation
                before = follows.args[0]
                inner = work.graph.node_copy(
                    follows, lambda n: inner if n is before else n
                )
            out = second(inner)
        work.replace(call, out)
