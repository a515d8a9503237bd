"""Puts a token selection into a graph, anywhere in the stack of blocks."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparsefx.errors import CaptureError, MaskError
from sparsefx.passes.graphs.graph_pass import Pass
from sparsefx.passes.graphs.owned_graph import NodeError, note_values
from sparsefx.passes.tokens.token_dimension import free_tokens
from sparsefx.passes.tokens.token_scorer import (
    TokenScorer,
    choose_tokens,
    return_tokens,
    select_tokens,
    take_tokens,
)
from sparsefx.torch_internals import hint
from sparsefx.tracing.operations import called, kind_of


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

    ``inside`` a module, an attention say, its input alone is shortened: behind it all
    tokens are there again, zeros for those that were dropped, so that the residual path
    around it keeps them as they are::

        y = x + attention(norm(x))            places, ones = choose_tokens(norm_x, ...)
                                              a = attention(take_tokens(norm_x, ...))
                                              y = x + return_tokens(a, places, norm_x)

    Attributes:
        before: path of the module whose input is shortened, such as ``"blocks.3"``.
        keep: fraction of the tokens behind the prefix, or their number.
        prefix: first tokens that are never dropped.
        inside: tokens come back behind the module.

    Raises:
        MaskError: ``keep`` is not a number of tokens, ``before`` names no module
            that takes (batch, tokens, width), or, ``inside`` it, one around which no
            residual path leads.
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
    inside: bool = False

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
            choice = (anchor, scores, *switches, count, self.prefix)
            if self.inside:
                found = graph.call_function(choose_tokens, choice)
                places, ones = (
                    graph.call_function(operator.getitem, (found, i)) for i in (0, 1)
                )
                kept = graph.call_function(take_tokens, (anchor, places, ones))
                made = [scores, found, places, ones, kept]
            else:
                kept = graph.call_function(select_tokens, choice)
                made = [scores, kept]
            size = graph.call_method("size", (kept, 1))
        if self.inside:
            made.append(self._returned(graph, anchor, places))
        for node in (*reads.values(), *made, size):
            node.meta["module"] = path
            # its code is not traced when it is unpickled
            node.meta["is_wrapped"] = node.target in _FUNCTIONS
        anchor.replace_all_uses_with(
            kept,
            delete_user_cb=lambda user: (
                user not in made and (not self.inside or _inside(user, self.before))
            ),
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

    def _returned(self, graph: fx.Graph, anchor: fx.Node, places: fx.Node) -> fx.Node:
        """Gives what the module computes the tokens back that it did not see."""
        within = [n for n in graph.nodes if _inside(n, self.before)]
        ends = [n for n in within if any(u not in within for u in n.users)]
        if len(ends) != 1 or not _is_added(ends[0], within[0]):
            raise MaskError(
                f"what {self.before!r} computes is not added to tokens that go around "
                "it, so those that are dropped inside it would be lost; give the path "
                "of an attention such as 'blocks.3.attn', or drop them before a block"
            )
        (end,) = ends
        with graph.inserting_after(end):
            back = graph.call_function(return_tokens, (end, places, anchor))
        back.meta["val"] = end.meta["val"]
        end.replace_all_uses_with(
            back, delete_user_cb=lambda user: user is not back and user not in within
        )
        return back

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


_FUNCTIONS = (select_tokens, choose_tokens, take_tokens, return_tokens)


def _is_added(node: fx.Node, first: fx.Node) -> bool:
    """Whether all that reads a value adds it to one from before a node."""
    for user in node.users:
        if called(user) in ("add", "iadd", "radd"):
            others = [n for n in user.all_input_nodes if n is not node]
            if len(others) != 1 or not others[0] < first:
                return False
        elif kind_of(user) not in ("first", "casts") and called(user) != "mul":
            return False
        elif not _is_added(user, first):
            return False
    return bool(node.users)


def _inside(node: fx.Node, path: str) -> bool:
    where = str(node.meta.get("module") or "")
    return where == path or where.startswith(f"{path}.")


def _device(module: nn.Module) -> torch.device | None:
    return next((p.device for p in module.parameters()), None)
