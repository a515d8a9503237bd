"""Where a graph's nodes stand: execution downwards, weights beside their operation.

The right column holds what depends on inputs, one box a node, in execution order.
What depends on weights alone stands to the left of its first user, on the same
band: weight and mask parameters -> mask node -> operation. Values used further
down travel in lanes on the right, one lane a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from sparsefx.passes.costs.symbolic_size import Amount
from sparsefx.reports.text_table import elided

Kind = Literal["input", "weight", "scalars", "mask", "op", "output"]

STATE = "_sparsefx."
BOX, HEIGHT = 232, 40  # a box
SLOT, BAND = 48, 12  # from box to box in a band; between bands
GAP = 44  # between columns
LANE = 10
MAX_TEXT = 30  # characters


def kind(node: fx.Node) -> Kind:
    """What a node is to a reader of a masked graph."""
    if node.op == "placeholder":
        return "input"
    if node.op == "output":
        return "output"
    if node.op == "get_attr":
        return "scalars" if str(node.target).startswith(STATE) else "weight"
    own = node.op == "call_module" and str(node.target).startswith(STATE)
    return "mask" if own else "op"


def label(node: fx.Node) -> tuple[str, str]:
    """A node's two lines: its name; what it calls, and the shape of its result."""
    if node.op == "get_attr":
        return str(node.target), _shape(node)
    if node.op == "output":
        return node.name, ""
    module = node.op == "call_module" and kind(node) != "mask"
    name = str(node.target) if module else node.name
    calls = "" if node.op == "placeholder" else _short(node)
    shape = _shape(node)
    if name.rstrip("0123456789_") == calls.removeprefix("."):
        calls = ""  # linear_3 already says linear
    return name, f"{elided(calls, MAX_TEXT - len(shape))}  {shape}".strip()


def _short(node: fx.Node) -> str:
    if node.op == "call_method":
        return f".{node.target}"
    if node.op == "call_module":
        owner = node.graph.owning_module
        found = owner and dict(owner.named_modules()).get(str(node.target))
        return type(found).__name__ if found else str(node.target)
    return str(getattr(node.target, "__name__", node.target))


def _shape(node: fx.Node) -> str:
    value = node.meta.get("val")
    if value is None and node.op == "get_attr" and node.graph.owning_module:
        value = _attribute(node.graph.owning_module, str(node.target))
    if not isinstance(value, Tensor):
        return ""
    return f"[{', '.join(map(_size, value.shape))}]"


def _attribute(owner: object, target: str) -> object:
    for part in target.split("."):
        owner = getattr(owner, part, None)
    return owner


def _size(size: int | torch.SymInt) -> str:
    return str(Amount.of(size).expr) if isinstance(size, torch.SymInt) else str(size)


@dataclass(frozen=True, slots=True)
class Box:
    """One drawn node: its kind, lines, place, and whether it was drawn before."""

    kind: Kind
    lines: tuple[str, str]
    x: float
    y: float
    again: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes and edges (as SVG path data) of one graph, and its size."""

    boxes: tuple[Box, ...]
    edges: tuple[str, ...]
    width: float
    height: float


def picture(graph: fx.Graph) -> Picture:
    """Lays out one graph."""
    side = _weight_side(graph)
    main = [node for node in graph.nodes if node not in side]
    drawn: set[fx.Node] = set()
    bands = [_Band(node, side, drawn) for node in main]
    columns = max((band.columns for band in bands), default=0)
    x = columns * (BOX + GAP)
    boxes: list[Box] = []
    edges: list[str] = []
    places: dict[fx.Node, float] = {}
    y = 0.0
    for band in bands:
        places[band.node] = y
        boxes.append(Box(kind(band.node), label(band.node), x, y))
        band.place(x, y, boxes, edges)
        y += band.height + BAND
    lanes = list(_main_edges(main, places, x + BOX, edges))
    width = x + BOX + LANE * (max(lanes, default=-1) + 3)
    return Picture(tuple(boxes), tuple(edges), width, max(y - BAND, HEIGHT))


def _weight_side(graph: fx.Graph) -> set[fx.Node]:
    side: set[fx.Node] = set()
    for node in graph.nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (
            inputs and node.op != "output" and all(value in side for value in inputs)
        ):
            side.add(node)
    return side


class _Band:
    """One node of the right column with the weights it is the first to use."""

    def __init__(self, node: fx.Node, side: set[fx.Node], drawn: set[fx.Node]) -> None:
        self.node = node
        # by column, counted from the node leftwards: (node, column's user, again)
        self.side: list[list[tuple[fx.Node, fx.Node, bool]]] = []
        level = [node]
        while level:
            found = []
            for user in level:
                for value in user.all_input_nodes:
                    if value in side:
                        found.append((value, user, value in drawn))
                        drawn.add(value)
            if found:
                self.side.append(found)
            level = [value for value, _, again in found if not again]

    @property
    def columns(self) -> int:
        return len(self.side)

    @property
    def height(self) -> float:
        slots = [len(self._boxed(column)) for column in self.side]
        return SLOT * max(slots, default=1) - (SLOT - HEIGHT)

    @staticmethod
    def _boxed(
        column: Sequence[tuple[fx.Node, fx.Node, bool]],
    ) -> list[tuple[fx.Node, fx.Node, bool, list[str]]]:
        """The column's boxes: the mask parameters of one mask share one."""
        boxed: list[tuple[fx.Node, fx.Node, bool, list[str]]] = []
        scalars: dict[fx.Node, list[str]] = {}
        for value, user, again in column:
            if kind(value) != "scalars":
                boxed.append((value, user, again, []))
            elif user in scalars:
                scalars[user].append(str(value.target).removeprefix(STATE))
            else:
                scalars[user] = [str(value.target).removeprefix(STATE)]
                boxed.append((value, user, False, scalars[user]))
        return boxed

    def place(self, x: float, y: float, boxes: list[Box], edges: list[str]) -> None:
        """Adds the weights' boxes left of ``x``, and edges between neighbours."""
        users = {self.node: y}
        for column in self.side:
            x -= BOX + GAP
            places: dict[fx.Node, float] = {}
            for slot, (value, user, again, scalars) in enumerate(self._boxed(column)):
                top = y + SLOT * slot
                lines = label(value)
                if scalars:
                    half = (len(scalars) + 1) // 2
                    lines = (" ".join(scalars[:half]), " ".join(scalars[half:]))
                boxes.append(Box(kind(value), lines, x, top, again))
                places.setdefault(value, top)
                start, end = top + HEIGHT / 2, users[user] + HEIGHT / 2
                near, far, middle = x + BOX, x + BOX + GAP, x + BOX + GAP / 2
                edges.append(
                    f"M{near} {start}C{middle} {start} {middle} {end} {far - 3} {end}"
                )
            users = places


def _main_edges(
    main: Sequence[fx.Node],
    places: dict[fx.Node, float],
    right: float,
    edges: list[str],
) -> Iterator[int]:
    """Adds the right column's edges to ``edges``; yields the lanes in use."""
    row = {node: i for i, node in enumerate(main)}
    busy: list[int] = []  # by lane, the last row of the value in it
    for i, node in enumerate(main):
        users = sorted(row[user] for user in node.users if user in row)
        if users and users[0] == i + 1:
            x, user = right - BOX / 2, places[main[i + 1]]
            edges.append(f"M{x} {places[node] + HEIGHT}V{user - 3}")
            users = users[1:]
        if not users:
            continue
        free = [n for n, last in enumerate(busy) if last <= i] or [len(busy)]
        lane = free[0]
        busy[lane : lane + 1] = [users[-1]]
        x = right + LANE * (lane + 1.5)
        start = places[node] + HEIGHT * 0.7
        for user in users:
            end = places[main[user]] + HEIGHT * 0.3
            edges.append(f"M{right} {start}H{x}V{end}H{right + 3}")
        yield lane
