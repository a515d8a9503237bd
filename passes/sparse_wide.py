"""Sparse Wide: every layer wider and sparser, at the cost of the dense network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import fx

from sparsefx.errors import CaptureError
from sparsefx.passes.graphs.owned_graph import NodeError, own_graph
from sparsefx.passes.iso_flop.iso_flop_pass import IsoFlopPass
from sparsefx.passes.split_attention import SplitAttention
from sparsefx.passes.widths.widen_graph import Widened
from sparsefx.settings.kinds import Select

_ATTEMPTS = 12  # nodes that turn out not to run on new sizes, one a time


@dataclass(frozen=True, slots=True)
class SparseWide(IsoFlopPass):
    """Multiplies channels by ``k = 1 / sqrt(density)`` and thins the weights out.

    Widths are followed through the whole graph: residual sums, concatenations, splits,
    views (their literal sizes are rewritten), grouped and depthwise convolutions,
    norms, attention heads, tied embeddings. Inputs and outputs of the model keep their
    sizes. What no rule knows is held at its size; the record says where and why.

    Before, and after (density 0.25)::

        h = F.linear(x, w1)     # 64 x 8        h = F.linear(x, w1)     # 128 x 8
        y = F.linear(h, w2)     # 4 x 64        y = F.linear(h, w2)     # 4 x 128

    Beside the options of `IsoFlopPass`:

    Attributes:
        density: kept fraction of a layer both of whose sides grow, in (0, 1].
        select: ``"all"``, or patterns of the modules whose outputs grow.
        round_to: new widths are the nearest multiple of it.
        heads: what of attention grows: the ``"size"`` of the heads, their ``"count"``,
            or ``"auto"``: whichever lets more of the network grow (rotary tables fix
            the size).
        iso: what keeps its cost. ``"layer"``: each weight keeps as many
            multiply-accumulates as it had, exactly. ``"maskable"``: all weights
            together do; the first and the last layer and depthwise convolutions stay
            dense, the others pay for them at one density. ``"model"``: so does the
            whole model, attention products and norms (a multiplication an entry)
            included.
        init: ``"redraw"``: new weights, of the dense weights' variance corrected for
            density; ``"keep"``: the dense weights among zeros, so that the masks of
            the largest weights start as the dense network.
        strict: raise where something is held at its size, instead of noting it.

    Raises:
        PolicyError: an option is not allowed, or nothing in the graph can grow.
        CaptureError: the graph has no recorded values, or ``strict`` and a node is
            not known.
        BudgetError: what stays dense costs more than the whole may.

    Example:
        >>> import torch
        >>> from sparsefx.tracing.capture import capture
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(),
        ...     torch.nn.Linear(64, 128), torch.nn.Linear(128, 4))
        >>> graph = capture(net, (torch.randn(3, 8),)).graphs[""]
        >>> wide = SparseWide(density=0.25)(graph)
        >>> tuple(wide.get_parameter("2.weight").shape)
        (256, 128)
        >>> from sparsefx.passes.iso_flop.record import record_of
        >>> record_of(wide).kept
        {'0.weight': 512, '2.weight': 8192, '3.weight': 512}
    """

    select: Select = "all"
    heads: Literal["auto", "size", "count"] = "auto"
    strict: bool = False

    def width(self, size: int) -> int:
        """The new width of so many channels: nearest, never below the old one.

        Example:
            >>> [SparseWide(0.5).width(n) for n in (16, 24, 8, 32, 40)]
            [23, 34, 11, 45, 57]
        """
        ideal = size / math.sqrt(self.density)
        nearest = math.floor(ideal / self.round_to + 0.5) * self.round_to
        return max(nearest, size)

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """A new graph module with tensors of its own; ``graph_module`` stays."""
        held: dict[str, str] = {}
        for _ in range(_ATTEMPTS):
            best = max(self._plans(graph_module, held), key=lambda plan: plan.gain)
            try:
                made = best.apply()
            except NodeError as error:
                # a literal that no rule rewrote: leave the node's channels alone
                held[error.node] = str(error)
                continue
            if self.strict and best.flow.axes.reasons:
                node, reason = next(iter(best.flow.axes.reasons.items()))
                raise CaptureError(
                    f"node {node} holds channels at their size: {reason}; drop "
                    "strict=True, or leave its layers out of select"
                )
            return made
        raise CaptureError(
            f"the widened graph does not run: {next(reversed(held.values()))}; leave "
            "the layers around it out of select"
        )

    def _plans(
        self, graph_module: fx.GraphModule, held: dict[str, str]
    ) -> list[Widened]:
        root = own_graph(graph_module)
        if any(n.target is F.multi_head_attention_forward for n in root.graph.nodes):
            root = SplitAttention()(root)
        first = Widened.of(root, self, held, frozenset())
        splits = frozenset(first.flow.splits)
        if self.heads == "size" or not splits:
            return [first]
        every = Widened.of(root, self, held, splits)
        if self.heads == "count":
            return [every]
        stuck = frozenset(
            name
            for name, parts in first.flow.splits.items()
            if not any(map(first.flow.axes.live, parts))
        )
        if not stuck:
            return [first]
        return [first, every, Widened.of(root, self, held, stuck)]
