from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, fx, nn

from sparsefx.errors import SparsefxError
from sparsefx.passes.drawing.draw_graph import draw
from sparsefx.passes.drawing.graph_layout import (
    BOX,
    HEIGHT,
    Picture,
    kind,
    label,
    picture,
)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 6)
        self.down = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def masked_graph(tied: bool = False) -> fx.GraphModule:
    """x + down(relu(up(x))) with weights as edges and mask nodes on them."""
    root = Residual()
    root._sparsefx = nn.Module()
    for number in (0, 1):
        root._sparsefx.add_module(f"masked_weight_{number}", nn.Identity())
    graph = fx.Graph()
    x = graph.placeholder("x")
    value, first = x, None
    for number, layer in enumerate(("up", "down")):
        if tied and first is not None:
            masked = first
        else:
            node = f"_sparsefx.masked_weight_{number}"
            masked = graph.call_module(node, (graph.get_attr(f"{layer}.weight"),))
        first = masked
        weight = masked
        if tied and layer == "down":
            weight = graph.call_method("t", (masked,))
        bias = graph.get_attr(f"{layer}.bias")
        value = graph.call_function(nn.functional.linear, (value, weight, bias))
        if layer == "up":
            value = graph.call_function(torch.relu, (value,))
    graph.output(graph.call_function(torch.add, (x, value)))
    graph.lint()
    return fx.GraphModule(root, graph)


def rectangles(drawn: Picture) -> Iterator[tuple[float, float, float, float]]:
    for box in drawn.boxes:
        yield box.x, box.y, box.x + BOX, box.y + HEIGHT


def test_kinds_and_labels() -> None:
    module = masked_graph()
    nodes = {node.name: node for node in module.graph.nodes}
    assert [kind(nodes[name]) for name in ("x", "up_weight")] == ["input", "weight"]
    assert kind(nodes["_sparsefx_masked_weight_0"]) == "mask"
    assert kind(nodes["linear"]) == "op"
    assert kind(nodes["output"]) == "output"
    assert label(nodes["up_weight"]) == ("up.weight", "[6, 4]")
    assert label(nodes["relu"]) == ("relu", "")


def test_labels_of_modules_and_methods() -> None:
    module = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 3), nn.Flatten()))
    texts = [label(node) for node in module.graph.nodes]
    assert texts[1:3] == [("0", "Linear"), ("1", "Flatten")]


@pytest.mark.parametrize("tied", [False, True])
def test_nothing_overlaps_and_all_is_inside(tied: bool) -> None:
    drawn = picture(masked_graph(tied).graph)
    boxes = list(rectangles(drawn))
    for i, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0
        assert top >= 0
        assert right <= drawn.width
        assert bottom <= drawn.height
        for other in boxes[:i]:
            apart = left >= other[2] or other[0] >= right
            assert apart or top >= other[3] or other[1] >= bottom


def test_weight_then_mask_then_operation_on_one_band() -> None:
    drawn = picture(masked_graph().graph)
    found = {box.lines[0]: box for box in drawn.boxes}
    weight, mask, linear = (
        found["up.weight"],
        found["_sparsefx_masked_weight_0"],
        found["linear"],
    )
    assert weight.x < mask.x < linear.x
    assert weight.y == mask.y == linear.y


def test_execution_runs_downwards() -> None:
    drawn = picture(masked_graph().graph)
    main = [box for box in drawn.boxes if box.kind in ("input", "op", "output")]
    assert [box.lines[0] for box in main] == [
        "x",
        "linear",
        "relu",
        "linear_1",
        "add",
        "output",
    ]
    assert [box.y for box in main] == sorted(box.y for box in main)


def test_a_tied_mask_is_drawn_again_as_a_reference() -> None:
    drawn = picture(masked_graph(tied=True).graph)
    masks = [box for box in drawn.boxes if box.kind == "mask"]
    assert [box.again for box in masks] == [False, True]
    assert sum(box.lines[0] == "up.weight" for box in drawn.boxes) == 1


def test_values_used_further_down_take_a_lane() -> None:
    drawn = picture(masked_graph().graph)
    right = max(box.x for box in drawn.boxes) + BOX
    lanes = [edge for edge in drawn.edges if edge.startswith(f"M{right} ")]
    assert len(lanes) == 1  # x to add


@pytest.mark.parametrize("suffix", [".svg", ".html", ".dot"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"graph{suffix}"
    draw({"": masked_graph(), "body.0": masked_graph(tied=True)}, path)
    text = path.read_text(encoding="utf-8")
    assert "masked_weight" in text
    assert "body.0" in text
    if suffix == ".svg":
        ElementTree.fromstring(text)
    if suffix == ".html":
        assert "def forward(self, x)" in text
        assert "<script" not in text
    if suffix == ".dot":
        assert '"0.up_weight" -> "0._sparsefx_masked_weight_0";' in text
        assert text.count("{") == text.count("}")


def test_upper_case_suffix(tmp_path: Path) -> None:
    draw({"": masked_graph()}, tmp_path / "graph.SVG")
    assert (tmp_path / "graph.SVG").exists()


def test_other_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SparsefxError, match=r"graph.png.*\.svg, \.html, \.dot"):
        draw({"": masked_graph()}, tmp_path / "graph.png")


def test_no_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SparsefxError, match="no graph to draw"):
        draw({}, tmp_path / "graph.svg")


def test_graph_without_weights_and_with_odd_outputs(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"a": x, "b": y, "c": y + y}

    draw({"": fx.symbolic_trace(Odd())}, tmp_path / "graph.svg")
    ElementTree.parse(tmp_path / "graph.svg")
