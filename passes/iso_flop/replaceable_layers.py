"""The layers of a graph that a rewrite can replace, with the norm and what follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparsefx.errors import PolicyError
from sparsefx.passes.graphs.weight_sources import argument, label_of
from sparsefx.settings.patterns import select

CONVS = tuple(f"conv{n}d" for n in (1, 2, 3))
TRANSPOSED = tuple(f"conv_transpose{n}d" for n in (1, 2, 3))
LAYERS = ("linear", *CONVS, *TRANSPOSED)
ACTIVATIONS = frozenset(
    {
        *("relu", "relu_", "relu6", "gelu", "silu", "mish", "elu", "celu", "selu"),
        *("tanh", "sigmoid", "hardtanh", "hardswish", "hardsigmoid", "softplus"),
        *("leaky_relu", "leaky_relu_", "rrelu", "softsign", "logsigmoid"),
    }
)
_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
INNER = "inner"
ALL = "all"


@dataclass(frozen=True, slots=True)
class LayerSite:
    """One weight, and the places that multiply by it.

    Attributes:
        name: the weight's name.
        module: path of the module that owns it.
        op: ``"linear"``, ``"conv2d"``, ``"conv_transpose2d"`` ...
        shape: the weight's shape.
        groups: of a convolution; 1 for a linear map.
        calls: the nodes that multiply by it.
    """

    name: str
    module: str
    op: str
    shape: tuple[int, ...]
    groups: int
    calls: tuple[fx.Node, ...]

    @property
    def numel(self) -> int:
        """Number of weights."""
        return int(torch.Size(self.shape).numel())

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return self.op in TRANSPOSED

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Input channels, output channels and kernel positions, of all groups."""
        first, second, *kernel = self.shape
        positions = int(torch.Size(kernel).numel())
        if self.op in TRANSPOSED:
            return first, second * self.groups, positions
        return second * self.groups, first, positions


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows a layer, each used by the next alone.

    Attributes:
        norm: the norm right after it, or None.
        activation: the element-wise function right after that, or None.
    """

    norm: fx.Node | None
    activation: fx.Node | None


def tail_of(node: fx.Node) -> Tail:
    """The norm and the activation that follow a node and nothing else reads.

    Example:
        >>> graph = fx.Graph()
        >>> x, w = graph.placeholder("x"), graph.get_attr("w")
        >>> y = graph.call_function(F.relu, (graph.call_function(F.linear, (x, w)),))
        >>> tail_of(y.args[0]).activation.name
        'relu'
    """
    last, norm = node, None
    following = _only_user(last)
    if following is not None and is_norm(following):
        last = norm = following
        following = _only_user(last)
    active = following is not None and is_activation(following)
    return Tail(norm, following if active else None)


def is_activation(node: fx.Node) -> bool:
    """Whether a node applies a non-linear function to each entry."""
    if node.op == "call_method":
        return node.target in ACTIVATIONS
    return node.op == "call_function" and label_of(node) in ACTIVATIONS


def is_batch_norm(graph_module: nn.Module, node: fx.Node | None) -> bool:
    """Whether a node is a norm module over the channels of a batch."""
    if node is None or node.op != "call_module":
        return False
    module = graph_module.get_submodule(str(node.target))
    return isinstance(module, nn.modules.batchnorm._NormBase)


def is_norm(node: fx.Node) -> bool:
    """Whether a node normalises its input."""
    root = node.graph.owning_module
    if node.op == "call_module" and root is not None:
        return is_batch_norm(root, node)
    return node.op == "call_function" and label_of(node) in _NORMS


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    if len(users) != 1:
        return None
    return users[0] if users[0].args and users[0].args[0] is node else None


def sites_of(
    graph_module: fx.GraphModule, select_by: str | Sequence[str]
) -> tuple[list[LayerSite], dict[str, str]]:
    """The layers to replace, and those left, with the reason.

    Args:
        graph_module: a graph down to its weights, with values.
        select_by: ``"inner"``: every layer with another one before it and one after
            it (all, where there is no such layer); ``"all"``; or patterns of module
            paths, as in ``include`` of a policy.

    Raises:
        PolicyError: a pattern matches nothing, or no layer is left.
    """
    found = _found(graph_module)
    left = {n: str(site) for n, site in found.items() if isinstance(site, str)}
    sites = [site for site in found.values() if isinstance(site, LayerSite)]
    if not sites:
        raise PolicyError(
            "the graph has no linear or convolution layer that can be replaced"
            + "".join(f"; {name}: {why}" for name, why in list(left.items())[:3])
        )
    if isinstance(select_by, str) and select_by in (INNER, ALL):
        inner = [s for s in sites if _between(s)] if select_by == INNER else sites
        chosen = {site.name for site in inner or sites}
        reason = "the first or the last layer; select='all' takes these too"
        left |= {site.name: reason for site in sites if site.name not in chosen}
        return [site for site in sites if site.name in chosen], left
    patterns = (select_by,) if isinstance(select_by, str) else tuple(select_by)
    picked = select([(s.name, s.module) for s in sites], include=patterns)
    left |= {name: p.reason for name, p in picked.items() if not p.selected}
    return [site for site in sites if picked[site.name].selected], left


def inner_layers(graph_module: fx.GraphModule) -> frozenset[str]:
    """Weights with another one before and one after, but for depthwise convolutions."""
    found = _found(graph_module).values()
    sites = [site for site in found if isinstance(site, LayerSite)]
    return frozenset(s.name for s in sites if s.groups != s.sizes[0] and _between(s))


def _found(graph_module: fx.GraphModule) -> Mapping[str, LayerSite | str]:
    names = dict(graph_module.named_parameters(remove_duplicate=False))
    first = {id(value): name for name, value in graph_module.named_parameters()}
    uses: dict[str, list[tuple[fx.Node, bool]]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in names:
            value = names[str(node.target)]
            if value.ndim < 2 or not value.is_floating_point():
                continue
            for user in node.users:
                weight = label_of(user) in LAYERS and argument(user, 1, "weight")
                uses.setdefault(first[id(value)], []).append((user, weight is node))
    found: dict[str, LayerSite | str] = {}
    for name, calls in uses.items():
        labels = {label_of(node) for node, _ in calls}
        if not any(is_weight for _, is_weight in calls):
            continue
        if not all(is_weight for _, is_weight in calls):
            other = sorted(labels - set(LAYERS)) or ["another place"]
            found[name] = f"its weight is also read by {', '.join(other)}"
            continue
        groups = {_groups(node) for node, _ in calls}
        if len(labels) > 1 or len(groups) > 1:
            found[name] = "its weight is used in two ways"
            continue
        nodes = tuple(node for node, _ in calls)
        module = name.rpartition(".")[0]
        shape = tuple(names[name].shape)
        found[name] = LayerSite(name, module, labels.pop(), shape, groups.pop(), nodes)
    return found


def _groups(node: fx.Node) -> int:
    convolves = label_of(node) in (*CONVS, *TRANSPOSED)
    return int(str(argument(node, 6, "groups") or 1)) if convolves else 1


def _between(site: LayerSite) -> bool:
    """Whether another weight comes before it and another one after it."""

    def weighs(node: fx.Node) -> bool:
        parts = [n for n in node.all_input_nodes if n.op == "get_attr"]
        wide = (n.meta.get("val") for n in parts)
        known = (*LAYERS, "embedding", "addmm", "matmul")
        return label_of(node) in known and any(
            isinstance(value, Tensor) and value.ndim >= 2 for value in wide
        )

    def reaches(start: fx.Node, forward: bool) -> bool:
        seen, stack = {start}, [start]
        while stack:
            top = stack.pop()
            near = list(top.users) if forward else top.all_input_nodes
            for node in near:
                if node in seen:
                    continue
                if weighs(node) and node not in site.calls:
                    return True
                seen.add(node)
                stack.append(node)
        return False

    return all(reaches(call, way) for call in site.calls[:1] for way in (True, False))


def as_linear(graph_module: fx.GraphModule) -> None:
    """Spells products by a plain weight of shape (inputs, outputs) as linear layers.

    The weights are transposed in place; the graph must own them and has values.

    Example:
        >>> from sparsefx.tracing.capture import capture
        >>> from sparsefx.passes.graphs.owned_graph import own_graph
        >>> class Product(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.ones(4, 3))
        ...     def forward(self, x):
        ...         return x @ self.weight
        >>> own = own_graph(capture(Product(), (torch.ones(2, 4),)).graphs[""])
        >>> as_linear(own)
        >>> own.weight.shape, [n.name for n in own.graph.nodes][-2]
        (torch.Size([3, 4]), 'linear')
    """
    names = dict(graph_module.named_parameters(remove_duplicate=False))
    reads: dict[int, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in names:
            reads.setdefault(id(names[str(node.target)]), []).append(node)
    for nodes in reads.values():
        calls = {user: _product(user) for node in nodes for user in node.users}
        weight = names[str(nodes[0].target)]
        if not calls or not all(
            parts is not None and parts[1] in nodes for parts in calls.values()
        ):
            continue
        weight.data = weight.data.mT.contiguous()
        for node in nodes:
            node.meta["val"] = node.meta["val"].mT
        for call, parts in calls.items():
            assert parts is not None
            with call.graph.inserting_before(call):
                new = call.graph.call_function(F.linear, parts)
            new.meta = dict(call.meta)
            call.replace_all_uses_with(new)
            call.graph.erase_node(call)


def _product(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node | None] | None:
    """``(x, weight, bias)`` of a product that a linear layer could be."""
    label = label_of(node)
    if label == "addmm" and not node.kwargs and len(node.args) == 3:
        bias, x, weight = node.args
    elif label in ("matmul", "__matmul__", "mm") and len(node.args) == 2:
        (x, weight), bias = node.args, None
    else:
        return None
    if not isinstance(x, fx.Node) or not isinstance(weight, fx.Node):
        return None
    value = weight.meta.get("val")
    plain = weight.op == "get_attr" and isinstance(value, Tensor) and value.ndim == 2
    if not plain or bias is None:
        return (x, weight, None) if plain else None
    if not isinstance(bias, fx.Node) or bias.meta["val"].ndim != 1:
        return None
    return x, weight, bias
