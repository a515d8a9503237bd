"""Writes on each node of a captured graph what it costs, and sums it up in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from sparsefx.passes.costs.cost_table import CostRow, CostTable, Use
from sparsefx.passes.costs.node_costs import price
from sparsefx.passes.costs.symbolic_size import Amount, integer
from sparsefx.passes.graphs.graph_pass import Pass
from sparsefx.passes.graphs.weight_sources import Scope, label_of
from sparsefx.torch_internals import hint
from sparsefx.tracing.observed_uses import Observed

NOT_MULTIPLIED = "no weight operation takes it as it is"
# What a module of these types does with its `weight`, if no graph shows it.
_OWNERS: Mapping[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Embedding: "embedding",
    nn.EmbeddingBag: "embedding",
    nn.Bilinear: "bilinear",
    nn.Conv1d: "conv1d",
    nn.Conv2d: "conv2d",
    nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv_transpose1d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.ConvTranspose3d: "conv_transpose3d",
}


def _owner(module: nn.Module, attribute: str) -> str:
    """The operation that a module of a known type does with a weight of its own."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return type(module).__name__.lower() if "weight" in attribute else ""
    return _OWNERS.get(type(module), "") if attribute == "weight" else ""


@dataclass(frozen=True, slots=True)
class AnnotateCosts(Pass):
    """Writes ``node.meta["sparsefx"]`` on nodes that use weights or cost MACs.

    Changes nothing else. The keys it writes: ``"uses"``, a tuple of `Use`, and
    ``"fixed_macs"``, an `Amount` or None.

    Example:
        >>> from torch.fx.passes.shape_prop import ShapeProp
        >>> class Scale(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.ones(3, 4))
        ...     def forward(self, x):
        ...         return nn.functional.linear(x, self.weight)
        >>> traced = fx.symbolic_trace(Scale())
        >>> for node, size in zip(traced.graph.nodes, [(8, 4), (3, 4), (8, 3)]):
        ...     node.meta["val"] = torch.ones(size)
        >>> noted = AnnotateCosts()(traced)
        >>> node = next(n for n in noted.graph.nodes if n.name == "linear")
        >>> [(use.parameter, str(use.macs_per_weight))
        ...  for use in node.meta["sparsefx"]["uses"]]
        [('weight', 'batch')]
    """

    in_place: ClassVar[bool] = True

    def rewrite(self, graph_module: fx.GraphModule) -> fx.GraphModule:
        """Annotates in place and returns the same module."""
        names = dict(graph_module.named_parameters(remove_duplicate=False))
        scope = Scope.of(graph_module.graph, dict(zip(names, names, strict=True)))
        for node in graph_module.graph.nodes:
            priced = price(node, scope)
            if priced.uses or priced.fixed is not None:
                note = {"uses": priced.uses, "fixed_macs": priced.fixed}
                node.meta["sparsefx"] = {**node.meta.get("sparsefx", {}), **note}
        return graph_module


@dataclass(frozen=True, slots=True)
class Collected:
    """What graphs say about costs.

    Attributes:
        uses: every use of a weight, in the order of execution.
        fixed: one row for each product without a maskable weight.
        reasons: why a parameter is not priced, by its name.
        seen: parameters that appear in a graph at all.
    """

    uses: tuple[Use, ...]
    fixed: tuple[CostRow, ...]
    reasons: Mapping[str, str]
    seen: frozenset[str]


def collect(module: nn.Module, graphs: Mapping[str, fx.GraphModule]) -> Collected:
    """Prices every node of the graphs of a model.

    Args:
        module: the whole model; gives parameters their first names.
        graphs: captured graphs by the path of the module they stand for ("" is the
            whole model); their ``get_attr`` targets are relative to that module.
    """
    first = {id(value): name for name, value in module.named_parameters()}
    every = module.named_parameters(remove_duplicate=False)
    aliases = {alias: first[id(value)] for alias, value in every}
    uses: list[Use] = []
    fixed: list[CostRow] = []
    reasons: dict[str, str] = {}
    seen: set[str] = set()
    for prefix, graph_module in graphs.items():
        dotted = f"{prefix}." if prefix else ""
        names = {
            alias.removeprefix(dotted): name
            for alias, name in aliases.items()
            if alias.startswith(dotted)
        }
        scope = Scope.of(graph_module.graph, names, prefix)
        for node in graph_module.graph.nodes:
            if node.op == "get_attr" and node.target in names:
                seen.add(names[node.target])
            priced = price(node, scope)
            uses.extend(priced.uses)
            reasons.update(priced.unpriced)
            if priced.fixed is not None and priced.fixed.expr != 0:
                fixed.append(_product_row(node, priced.fixed, scope))
    return Collected(tuple(uses), tuple(fixed), reasons, frozenset(seen))


def _product_row(node: fx.Node, macs: Amount, scope: Scope) -> CostRow:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, tuple | list) else value
    shape = value.shape if isinstance(value, torch.Tensor) else ()
    sizes = tuple(hint(size) for size in shape)
    name = f"{scope.prefix}.{node.name}" if scope.prefix else node.name
    reason = "a product without a maskable weight"
    return CostRow(
        name=name,
        module=scope.module(node),
        op=label_of(node).strip("_"),
        shape=sizes,
        macs=macs.expr,
        params=0,
        bytes=0,
        maskable=False,
        sizes=macs.sizes,
        reason=reason,
    )


def cost_table(
    module: nn.Module,
    graphs: Mapping[str, fx.GraphModule],
    observed: Mapping[str, Observed] | None = None,
) -> CostTable:
    """The cost of a model from its captured graphs.

    Every parameter has one row, under its first name; the costs of a weight that is
    used several times add up. A weight that no graph shows is maskable if the type of
    its owner says how it is used; its MACs are then unknown and count 0.

    Args:
        module: the whole model.
        graphs: captured graphs by module path; see `collect`.
        observed: by parameter name, how weights that no graph shows were used when
            the model ran.

    Raises:
        CaptureError: a graph carries no recorded values.

    Example:
        >>> table = cost_table(nn.Linear(4, 3), {})
        >>> [(row.name, row.op, row.maskable) for row in table]
        [('weight', 'linear', True), ('bias', 'parameter', False)]
    """
    collected = collect(module, graphs)
    uses: dict[str, list[Use]] = {}
    for use in collected.uses:
        uses.setdefault(use.parameter, []).append(use)
    known = observed or {}
    rows = [
        _parameter_row(
            module, name, value, uses.get(name, []), collected, known.get(name)
        )
        for name, value in module.named_parameters()
    ]
    return CostTable((*rows, *collected.fixed))


def _parameter_row(
    module: nn.Module,
    name: str,
    value: torch.Tensor,
    uses: list[Use],
    collected: Collected,
    observed: Observed | None,
) -> CostRow:
    path, _, attribute = name.rpartition(".")
    owner = _owner(module.get_submodule(path), attribute)
    macs = Amount(integer(0))
    reason = collected.reasons.get(name, "")
    ops = dict.fromkeys(use.op for use in uses)
    for use in uses:
        macs = macs.plus(Amount(use.macs_per_weight, use.sizes))
    if not uses and value.ndim < 2:
        reason = "fewer than two dimensions: a bias, a norm or a scale"
    elif not uses and not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        reason = f"its entries are {kind}; masks are for real floating-point weights"
    elif not uses and name in collected.seen:
        reason = reason or NOT_MULTIPLIED
    elif not uses and observed is not None:
        ops = {observed.op: None}
        # an average over the weight's entries, for the example inputs
        macs = Amount(integer(round(observed.macs)) / max(value.numel(), 1))
        reason = "seen in Python: its MACs are those of the example inputs"
    elif not uses and owner:
        ops = {owner: None}
        reason = "MACs unknown: no captured graph uses it"
    elif not uses:
        reason = "no captured graph uses it, and its owner does not say what it is"
    total = macs.times(Amount(integer(value.numel())))
    return CostRow(
        name=name,
        module=path,
        op="+".join(ops) or "parameter",
        shape=tuple(value.shape),
        macs=total.expr,
        params=value.numel(),
        bytes=value.numel() * value.element_size(),
        maskable=bool(ops),
        sizes=total.sizes,
        reason=reason,
    )
