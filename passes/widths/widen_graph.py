"""A graph whose channel groups have been followed, and what it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, fx, nn

from sparsefx.errors import PolicyError
from sparsefx.passes.costs.graph_costs import Prices, macs_of
from sparsefx.passes.graphs.owned_graph import note_values
from sparsefx.passes.iso_flop.initial_weights import drawn, energy_of, resized
from sparsefx.passes.iso_flop.record import KEY, IsoFlop, shared_by_price
from sparsefx.passes.iso_flop.replaceable_layers import inner_layers
from sparsefx.passes.widths.attention_scales import rescale
from sparsefx.passes.widths.axes import FIXED, Axis
from sparsefx.passes.widths.rule_table import rule_of
from sparsefx.passes.widths.width_flow import Widths
from sparsefx.settings.patterns import select
from sparsefx.tracing.graph_module import assembled, held_by, place


class Options(Protocol):
    """What `SparseWide` was asked for."""

    @property
    def select(self) -> str | Sequence[str]: ...  # noqa: D102
    @property
    def iso(self) -> str: ...  # noqa: D102
    @property
    def init(self) -> str: ...  # noqa: D102
    def width(self, size: int) -> int: ...  # noqa: D102


@dataclass(slots=True)
class Widened:
    """One way to widen a graph.

    Attributes:
        flow: the followed groups; its graph is changed by `apply`.
        options: what was asked for.
        widths: new sizes by group.
    """

    flow: Widths
    options: Options
    widths: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        root: fx.GraphModule,
        options: Options,
        held: Mapping[str, str],
        by_count: frozenset[str],
    ) -> Widened:
        """Follows the groups of a graph.

        Args:
            root: a graph module that owns its tensors.
            options: of the rewrite.
            held: nodes whose channels stay, with the reason.
            by_count: nodes whose heads grow in number.
        """
        flow = Widths(root, held, by_count)
        flow.axes.ordered = options.init == "keep"
        flow.follow(rule_of)
        made = cls(flow, options)
        made._leave_unselected()
        axes = flow.axes
        for shape in flow.parameters.values():
            for axis in shape:
                for group, _ in axes.found(axis):
                    if group != FIXED and group in axes.grows:
                        made.widths[group] = options.width(axes.size_of(group))
        return made

    @property
    def gain(self) -> int:
        """Number of new weights."""
        return sum(
            math.prod(self._shape(shape)) - math.prod(map(self.flow.axes.size, shape))
            for shape in self.flow.parameters.values()
        )

    def _shape(self, axes: Sequence[Axis]) -> tuple[int, ...]:
        return tuple(self.flow.axes.width(axis, self.widths) for axis in axes)

    def _leave_unselected(self) -> None:
        if self.options.select == "all":
            return
        given = self.options.select
        patterns = (given,) if isinstance(given, str) else tuple(given)
        wide = {n: s for n, s in self.flow.parameters.items() if len(s) >= 2}
        names = [(name, name.rpartition(".")[0]) for name in wide]
        for name, chosen in select(names, include=patterns).items():
            if not chosen.selected:
                self.flow.axes.where = name
                for axis in wide[name][:1]:
                    self.flow.axes.hold(axis, "select leaves it out")
        self.flow.axes.where = ""

    def apply(self) -> fx.GraphModule:
        """The widened graph module, with its record.

        Raises:
            NodeError: a node does not run on the new sizes.
        """
        root, flow = self.flow.root, self.flow
        if not self.gain:
            reasons = "; ".join(f"{n}: {w}" for n, w in flow.axes.reasons.items())
            raise PolicyError(
                "no layer of the graph can grow: both of its sides are inputs, outputs "
                f"or held ({reasons or 'a single layer'}); choose another rewrite"
            )
        before = Prices.of(root)
        inner = inner_layers(root)
        wanted = [n.meta["val"].shape for n in _outputs(root)]
        old = {name: dict(_tensors(root))[name] for name in flow.parameters}
        for name, shape in flow.parameters.items():
            size = self._shape(shape)
            if size != tuple(old[name].shape):
                _put(root, name, torch.empty(size, dtype=old[name].dtype))
        for path, axis in flow.norms.items():
            sizes = flow.axes.size(axis), flow.axes.width(axis, self.widths)
            place(root, path, resized(root.get_submodule(path), *sizes))
        for patch in flow.patches:
            patch(self.widths)
        rescale(flow, self.widths)
        made = assembled(root.graph, held_by(root), root)
        note_values(made)
        got = [n.meta["val"].shape for n in _outputs(made)]
        assert list(map(str, got)) == list(map(str, wanted)), (got, wanted)
        after = Prices.of(made)
        kept = self._counts(before, after, inner)
        energies = self._fill(made, old, kept)
        macs = macs_of(before, after, kept)
        left = dict(flow.axes.reasons)
        made.meta[KEY] = IsoFlop("sparse_wide", kept, energies, left, macs)
        return made

    def _counts(
        self, before: Prices, after: Prices, inner: frozenset[str]
    ) -> dict[str, int]:
        """How many entries of each weight are kept."""
        prices = after.each()
        rows = {row.name: row for row in after.table if row.name in prices}
        old = {name: before.table[name] for name in rows}
        grown = [name for name, row in rows.items() if row.shape != old[name].shape]
        if self.options.iso == "layer":
            return {
                name: min(old[name].number() // prices[name], rows[name].params)
                for name in grown
            }
        masked = [name for name in grown if name in inner]
        masked = masked or list(rows)
        target = before.table.totals()["macs"]["maskable"]
        if self.options.iso == "model":
            fixed = after.table.totals()["macs"]["fixed"]
            target = before.whole - after.norms - fixed
        dense = sum(rows[name].number() for name in rows if name not in masked)
        counts = shared_by_price(
            target - dense,
            [rows[name].params for name in masked],
            [prices[name] for name in masked],
        )
        return dict(zip(masked, counts, strict=True))

    def _fill(
        self, made: fx.GraphModule, old: Mapping[str, Tensor], kept: Mapping[str, int]
    ) -> dict[str, float]:
        """Gives every resized tensor its values; returns the weights' energies."""
        energies = {}
        now = dict(_tensors(made))
        for name, shape in self.flow.parameters.items():
            given, value = old[name], now.get(name)
            if value is None:
                continue
            outputs = value.shape[0] / max(given.shape[0], 1)
            if given.ndim > 1 and self._is_transposed(name):
                outputs = value.shape[1] / given.shape[1]
            if name in kept:
                energies[name] = energy_of(given) * outputs
            if value.shape == given.shape and name not in kept:
                continue
            with torch.no_grad():
                if self.options.init == "keep":
                    value.copy_(self._among(given, shape, value))
                    energies.pop(name, None)
                elif name in kept:
                    value.copy_(drawn(value.shape, energies[name], kept[name], value))
                else:
                    value.copy_(_alike(given, value))
        return energies

    def _is_transposed(self, name: str) -> bool:
        """Whether a weight's outputs are its second axis."""
        return any(
            "transpose" in getattr(user.target, "__name__", "")
            or getattr(user.target, "__name__", "") in ("addmm", "matmul")
            for node in self.flow.root.graph.nodes
            if node.op == "get_attr" and node.target == name
            for user in node.users
        )

    def _among(self, given: Tensor, shape: Sequence[Axis], value: Tensor) -> Tensor:
        """The old entries in their places, zeros (or the mean, of a vector) around."""
        rest = 0.0 if given.ndim > 1 else float(given.double().mean())
        out = torch.full_like(value, rest)
        places = [self._places(axis) for axis in shape]
        out[torch.meshgrid(*places, indexing="ij")] = given.to(out)
        return out

    def _places(self, axis: Axis) -> Tensor:
        """Where the old entries of an axis are in the new one."""
        axes, parts, offset = self.flow.axes, [], 0
        for segment in axes.found(axis):
            parts.append(offset + torch.arange(axes.size((segment,))))
            offset += axes.width((segment,), self.widths)
        return torch.cat(parts)


def _alike(given: Tensor, value: Tensor) -> Tensor:
    """Normal entries of the mean and spread of the old ones; whole numbers as 0."""
    if not given.is_floating_point():
        return torch.zeros_like(value)
    flat = given.detach().double()
    std = float(flat.std()) if flat.numel() > 1 else 0.0
    return torch.randn_like(value) * std + float(flat.mean())


def _tensors(root: nn.Module) -> list[tuple[str, Tensor]]:
    return [*root.named_buffers(), *root.named_parameters()]


def _put(root: nn.Module, name: str, value: Tensor) -> None:
    """Replaces a tensor under every name it has, so that ties stay."""
    old = dict(_tensors(root))[name]
    new: Tensor = value
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(value, requires_grad=old.requires_grad)
    for module in root.modules():
        for table in (module._parameters, module._buffers):
            for key, entry in table.items():
                if entry is old:
                    table[key] = new  # type: ignore[assignment]


def _outputs(root: fx.GraphModule) -> list[fx.Node]:
    return root.graph.output_node().all_input_nodes
