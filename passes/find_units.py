"""Finds heads, neurons and channels in any recorded graph, whatever its layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx

from sparsefx.passes.units.lost_units import lost_units
from sparsefx.passes.units.owners import Owners, present, slab_dim
from sparsefx.passes.units.size_literals import by_place
from sparsefx.passes.units.tag_interpreter import Tags, interpret
from sparsefx.passes.units.tags import STUCK, Ledger, compact
from sparsefx.passes.units.unit_costs import unit_prices
from sparsefx.passes.units.unit_map import Kind, Share, UnitGroup, UnitMap
from sparsefx.tracing.operations import kind_of

_ROW, _COLUMN, _BOUND = range(3)


def find_units(graph_module: fx.GraphModule) -> UnitMap:
    """The units of a graph that can be removed by themselves.

    Every weight row is a variable. Following the graph, variables are joined where
    their entries meet: in a product of activations (queries with keys, weights with
    values), under a norm or a softmax, in a sum. A *unit* is a class of joined
    variables that only reaches the rest of the model through columns of weights; units
    of the same build make a group. So heads come out whole, with any layout of queries,
    keys and values, with shared keys, with their columns of a bias table; neurons come
    out with their gates; and what a residual stream ties together stays.

    Args:
        graph_module: a graph of `sparsefx.capture`, attention split where it is opaque
            (`sparsefx.passes.SplitAttention`).

    Raises:
        CaptureError: the graph's inputs carry no recorded values.

    Example:
        >>> from sparsefx.tracing.capture import capture
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> print(find_units(capture(net, (torch.ones(3, 4),)).graphs[""]))
        2.neurons: 8 neurons, 18 MACs and 7 parameters each
    """
    ledger, tags = interpret(graph_module)
    return _Solver(graph_module, ledger, tags).solve()


@dataclass(slots=True)
class _Draft:
    """A group under construction."""

    labels: list[int]
    kind: Kind
    tensors: list[Share] = field(default_factory=list)
    producers: list[tuple[str, int]] = field(default_factory=list)
    consumers: list[str] = field(default_factory=list)
    gates: list[Share] = field(default_factory=list)
    why: str = ""

    @property
    def size(self) -> int:
        return len(self.labels)


class _Solver:
    """From joined variables to groups of units."""

    def __init__(self, module: fx.GraphModule, ledger: Ledger, tags: Tags) -> None:
        self.module, self.ledger, self.tags = module, ledger, tags
        self.drafts: list[_Draft] = []
        self.label = torch.empty(0)
        self.layout: dict[str, list[dict[int, tuple[Tensor, Tensor]]]] = {}

    def solve(self) -> UnitMap:
        self._close()
        self.label = self.ledger.classes()
        self.owners = Owners(self.ledger, self.label)
        self._draft()
        self._spread()
        self._slice()
        self._check()
        return self._result()

    def _close(self) -> None:
        """Joins what meets the same columns, and columns with rows of one weight."""
        ledger = self.ledger
        for found in ledger.consumed:
            ledger.where = found.node.name
            lines = [found.variables]
            key = found.parameter, found.parameter_dim
            lines += [
                other.variables
                for other in ledger.consumed
                if (other.parameter, other.parameter_dim) == key and other is not found
            ]
            if key in ledger.rows:
                lines.append(ledger.row_variables(*key))
            for line in lines[1:]:
                used = (found.variables >= 0) & (line >= 0)
                ledger.join(found.variables, line)
                alone = used & ((found.variables == 0) != (line == 0))
                ledger.stick(torch.maximum(found.variables, line)[alone])

    def _draft(self) -> None:
        """Classes that own the same dimensions of the same tensors make one group."""
        ledger, roles = self.ledger, defaultdict(set)
        for (name, dim), base in ledger.rows.items():
            size = ledger.shapes[name][1][dim]
            for one in torch.unique(self.label[base : base + size]).tolist():
                roles[one].add((_ROW, name, dim))
        for found in ledger.consumed:
            real = found.variables[found.variables > 0]
            for one in torch.unique(self.label[real]).tolist():
                roles[one].add((_COLUMN, found.parameter, found.parameter_dim))
        for name, one in self.owners.bindings():
            roles[one].add((_BOUND, name, 0))
        heads = [self.label[v] for v in ledger.attention if v.numel()]
        attended = set(torch.cat(heads).tolist()) if heads else set()
        same = defaultdict(list)
        for one, own in roles.items():
            if one > STUCK and {r[0] for r in own} >= {_ROW, _COLUMN}:
                same[frozenset(own)].append(one)
        for build, labels in same.items():
            if len(labels) < 2:
                continue
            kind: Kind = "neurons"
            if any((name, dim) in ledger.convolved for _, name, dim in build):
                kind = "channels"
            if attended.intersection(labels):
                kind = "heads"
            self.drafts.append(_Draft(sorted(labels), kind))
        self.owners.name([draft.labels for draft in self.drafts])

    def _spread(self) -> None:
        """How units divide each value of the graph; refuses groups that do not."""
        for node, tags in self.tags.items():
            moved = any(kind_of(u) in ("moves", "joins") for u in node.users)
            if node.op == "get_attr" and not moved:
                continue  # only what takes a weight apart needs its layout
            parts = tags if isinstance(tags, (tuple, list)) else [tags]
            dims = [
                self._divide(part, node.name) if isinstance(part, Tensor) else {}
                for part in parts
            ]
            if any(dims):
                self.layout[node.name] = dims
            for dim in by_place(node):
                held = self.layout.get(str(node.args[0]), [{}])[0].get(dim)
                for index in present(held[0]) if held else ():
                    self.drafts[index].why = f"{node.name} reads them by their places"

    def _divide(self, tags: Tensor, where: str) -> dict[int, tuple[Tensor, Tensor]]:
        found, lost = self.owners.divide(tags)
        for index in lost:
            self.drafts[index].why = f"{where} does not lay its units side by side"
        return found

    def _slice(self) -> None:
        """What each group owns of parameters, and where its values are used."""
        ledger = self.ledger
        lines: list[tuple[int, str, int, Tensor]] = []
        for name, dim in ledger.rows:
            lines.append((_ROW, name, dim, ledger.row_variables(name, dim)))
        seen = set()
        for found in ledger.consumed:
            key = found.parameter, found.parameter_dim
            if key not in seen:
                seen.add(key)
                lines.append((_COLUMN, *key, found.variables.clamp(min=0)))
        for role, name, dim, variables in lines:
            for index, owner in self.owners.lines(variables):
                draft = self.drafts[index]
                known = any((s.name, s.dim) == (name, dim) for s in draft.tensors)
                if not known:
                    draft.tensors.append(Share(name, dim, owner))
                if role:
                    draft.consumers.append(name)
                else:
                    draft.producers.append((name, dim))
        for name in dict.fromkeys(name for name, _ in self.owners.bindings()):
            base, shape = ledger.shapes[name]
            entries = -1 - torch.arange(base, base + shape.numel()).reshape(shape)
            for dim, (groups, units) in self._divide(entries, name).items():
                for index in present(groups):
                    owner = torch.where(groups == index, units, -1)
                    self.drafts[index].tensors.append(Share(name, dim, owner))
        for found in ledger.consumed:
            tags = self.tags[found.source]
            for dim, (groups, units) in self._divide(tags, found.source.name).items():
                for index in present(groups):
                    if dim != found.dim:
                        self.drafts[index].why = f"{found.node.name} mixes its units"
                        continue
                    owner = torch.where(groups == index, units, -1)
                    gates = self.drafts[index].gates
                    if all(gate.name != found.source.name for gate in gates):
                        gates.append(Share(found.source.name, dim, owner))

    def _check(self) -> None:
        """What meets a unit's entries must be removable with them, or have size one."""
        for pair in self.ledger.aligned:
            result = compact(pair.result)
            group, unit = self.owners.of(result)
            if not present(group):
                continue
            other_group, other_unit = self.owners.of(compact(pair.operand))
            for index in present(group):
                own = torch.where(group == index, unit, -1)
                dim = slab_dim(own)
                if dim is None:
                    continue  # refused already
                back = dim - own.ndim
                if -back > pair.operand.ndim or pair.operand.shape[back] == 1:
                    continue
                theirs = torch.where(other_group == index, other_unit, -1)
                shape = torch.broadcast_shapes(own.shape, theirs.shape)
                if not torch.equal(own.expand(shape), theirs.expand(shape)):
                    why = f"{pair.node.name} joins it with values no weight computes"
                    self.drafts[index].why = self.drafts[index].why or why

    def _result(self) -> UnitMap:
        groups: dict[str, UnitGroup] = {}
        refused = self.ledger.unknown()
        owned = {share.name for draft in self.drafts for share in draft.tensors}
        buffers = {n for n, _ in self.module.named_buffers(remove_duplicate=False)}
        known = owned | refused.keys() | buffers
        refused |= lost_units(self.ledger, self.label, known)
        renumber: dict[int, str] = {}
        for draft in self.drafts:
            if not draft.why and not draft.gates:
                draft.why = "nothing in the graph uses its units alone"
        prices = unit_prices(self.module, self.layout)
        costs = prices.costs({i: d for i, d in enumerate(self.drafts) if not d.why})
        for index, draft in enumerate(self.drafts):
            if draft.why:
                refused |= {producer: draft.why for producer, _ in draft.producers}
                continue
            path = draft.consumers[0].rpartition(".")[0]
            stem = name = f"{path}.{draft.kind}" if path else draft.kind
            while name in groups:
                name = f"{stem}_{len(groups)}"
            renumber[index] = name
            groups[name] = UnitGroup(
                name=name,
                kind=draft.kind,
                size=draft.size,
                tensors=tuple(draft.tensors),
                producers=tuple(dict.fromkeys(p for p, _ in draft.producers)),
                consumers=tuple(dict.fromkeys(draft.consumers)),
                row_dims={p: (dim,) for p, dim in draft.producers},
                gates=tuple(draft.gates),
                macs=costs[index][0],
                params=costs[index][1],
            )
        numbers = {name: i for i, name in enumerate(groups)}
        table = torch.full((len(self.drafts) + 1,), -1)
        for index, name in renumber.items():
            table[index] = numbers[name]
        layout: dict[str, list[Mapping[int, tuple[Tensor, Tensor]]]] = {
            node: [{d: (table[g], u) for d, (g, u) in part.items()} for part in parts]
            for node, parts in self.layout.items()
        }
        own = {numbers[n]: prices.fixed.get(i, 0.0) for i, n in renumber.items()}
        return UnitMap(groups, layout, refused, replace(prices, fixed=own))
