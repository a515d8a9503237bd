"""Puts a token selection into a graph, anywhere in the stack of blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError, MaskError
from sparsefx.passes.graphs.graph_pass import Pass
from sparsefx.passes.graphs.owned_graph import NodeError, note_values
from sparsefx.passes.tokens.token_dimension import free_tokens
from sparsefx.passes.tokens.token_scorer import TokenScorer, select_tokens
from sparsefx.torch_internals import hint


@dataclass(frozen=True, slots=True)
class SelectTokens(Pass):
    """Keeps the best tokens in front of a module; everything behind has fewer.

    Before, and after (each selection has a scorer of its own)::

        y = block(x)                          scores = F.linear(x, tokens_0.weight, ...)
        z = y.reshape(b, 197, 3, 6, 64)       kept = select_tokens(x, scores, tau,
                                                  training, enabled, count=98, prefix=1)
                                              n = kept.size(1)
                                              y = block(kept)
                                              z = y.reshape(b, n, 3, 6, 64)

    Costs that are read from the graph afterwards are those of the shorter sequence.

    Attributes:
        before: path of the module whose input is shortened, such as ``"blocks.3"``.
        keep: fraction of the tokens behind the prefix, or their number.
        prefix: first tokens that are never dropped.

    Raises:
        MaskError: ``keep`` is not a number of tokens, or ``before`` names no module
            that takes (batch, tokens, width).
        CaptureError: what follows needs the number of tokens it was recorded with
            (windows, masks or position tables of a fixed length).

    Example:
        >>> from sparsefx.tracing.capture import capture
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> graph = capture(net, (torch.ones(3, 9, 4),)).graphs[""]
        >>> SelectTokens("1", keep=0.5)(graph)(torch.ones(3, 9, 4)).shape
        torch.Size([3, 5, 2])
    """

    before: str
    keep: int | float
    prefix: int = 1

    in_place: ClassVar[bool] = True

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Rewrites in place and returns the same module."""
        graph = graph_module.graph
        anchor, first = anchor_of(graph, self.before)
        tokens, width = (hint(s) for s in anchor.meta["val"].shape[1:])
        count = self._count(tokens - self.prefix)
        number = sum(isinstance(m, TokenScorer) for m in graph_module._modules.values())
        path, scorer = f"tokens_{number}", TokenScorer(width)
        scorer.counts = count, tokens - self.prefix
        scorer.to(anchor.meta["val"].dtype)
        graph_module._modules[path] = scorer.to(_device(graph_module))
        with graph.inserting_before(first):
            reads = {
                name: graph.create_node("get_attr", f"{path}.{name}")
                for name in ("weight", "bias", "tau", "training", "enabled")
            }
            for name in ("weight", "bias", "tau"):
                reads[name].meta["val"] = getattr(scorer, name)
            reads["enabled"].meta["val"] = True
            weights = reads["weight"], reads["bias"]
            scores = graph.call_function(F.linear, (anchor, *weights))
            switches = reads["tau"], reads["training"], reads["enabled"]
            kept = graph.call_function(
                select_tokens, (anchor, scores, *switches, count, self.prefix)
            )
            kept.meta["is_wrapped"] = (
                True  # its code is not traced when it is unpickled
            )
            size = graph.call_method("size", (kept, 1))
        for node in (*reads.values(), scores, kept, size):
            node.meta["module"] = path
        anchor.replace_all_uses_with(
            kept, delete_user_cb=lambda user: user not in (scores, kept)
        )
        kept.meta["val"] = anchor.meta["val"]
        free_tokens(kept, size, tokens)
        try:
            note_values(graph_module)
        except NodeError as error:
            raise CaptureError(
                f"{error.node} does not work for fewer tokens: {error.__cause__}"
            ) from error
        return graph_module

    def _count(self, others: int) -> int:
        keep = self.keep
        count: int | float = keep
        if isinstance(keep, float) and 0 < keep <= 1:
            count = max(math.floor(keep * others + 0.5), 1)
        if not (type(count) is int and 1 <= count <= others):
            raise MaskError(
                f"keep is {self.keep!r}; give a fraction in (0, 1] or a number of "
                f"tokens from 1 to {others} ({self.prefix} more always stay)"
            )
        return count


def anchor_of(graph: fx.Graph, before: str) -> tuple[fx.Node, fx.Node]:
    """The tokens that enter a module, and the first node that reads them.

    Raises:
        MaskError: the path names no module that takes (batch, tokens, width).
    """
    for node in graph.nodes:
        if not _inside(node, before) or node.op == "get_attr":
            continue
        for used in node.all_input_nodes:
            value = used.meta.get("val")
            plain = used.op != "get_attr" and not _inside(used, before)
            if plain and isinstance(value, Tensor) and value.ndim == 3:
                return used, used.next
    raise MaskError(
        f"before={before!r} is no module of this graph that takes "
        "(batch, tokens, width); give the path of a block, such as 'blocks.3'"
    )


def _inside(node: fx.Node, path: str) -> bool:
    where = str(node.meta.get("module") or "")
    return where == path or where.startswith(f"{path}.")


def _device(module: nn.Module) -> torch.device | None:
    return next((p.device for p in module.parameters()), None)
