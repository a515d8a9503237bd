"""What holds of every pass."""

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx, nn

import sparsefx
from sparsefx import passes
from sparsefx.passes.graphs.graph_pass import Pass
from sparsefx.passes.iso_flop.iso_flop_pass import IsoFlopPass
from tests.unit_networks import awake, images, vit

PASSES = {
    "AnnotateCosts": passes.AnnotateCosts(),
    "SplitAttention": passes.SplitAttention(),
    "GateUnits": passes.GateUnits(),
    "ShrinkUnits": passes.ShrinkUnits(),
    "SelectTokens": passes.SelectTokens("blocks.1", keep=0.5),
    "SparseDoped": passes.SparseDoped(density=0.5),
    "SparseFactorized": passes.SparseFactorized(density=0.5),
    "SparseParallel": passes.SparseParallel(density=0.5),
    "SparseWide": passes.SparseWide(density=0.5),
}
SAME = ("AnnotateCosts", "SplitAttention", "GateUnits", "ShrinkUnits")
ONCE = ("AnnotateCosts", "SplitAttention", "ShrinkUnits")  # again changes nothing


def kinds(root: type[Pass] = Pass) -> Iterator[type[Pass]]:
    for kind in root.__subclasses__():
        if kind.__module__.startswith("sparsefx."):
            yield kind
            yield from kinds(kind)


@pytest.fixture
def graph() -> fx.GraphModule:
    """A transformer with a neuron and a head that are zero."""
    torch.manual_seed(0)
    model = awake(vit()).double().eval()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[3] = 0
        model.blocks[1].attention.proj.weight[:, 4:8] = 0
    return sparsefx.capture(model, (pictures(),)).graphs[""]


def pictures(batch: int = 3) -> Tensor:
    return images(batch, torch.float64)


def code_of(graph: fx.GraphModule) -> str:
    graph.recompile()
    return str(graph.code)


def test_all_passes_are_here() -> None:
    # masks need a state to read: tests/training walks them
    found = {kind.__name__ for kind in kinds()} - {"IsoFlopPass", "InsertMasks"}
    assert found == PASSES.keys()
    assert all(hasattr(passes, name) for name in found)


@pytest.mark.parametrize("name", PASSES)
def test_options_are_fields(name: str) -> None:
    one = PASSES[name]
    names = [field.name for field in dataclasses.fields(one)]
    again = type(one)(**{key: getattr(one, key) for key in names})
    assert dataclasses.asdict(again) == dataclasses.asdict(one)
    assert not hasattr(one, "__dict__")
    for key in names:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, key, getattr(one, key))


@pytest.mark.parametrize("name", PASSES)
def test_the_call_stays_and_the_graph_lints(name: str, graph: fx.GraphModule) -> None:
    before = [n.target for n in graph.graph.nodes if n.op == "placeholder"]
    wanted = graph(pictures())
    made = PASSES[name](graph)
    made.graph.lint()
    assert [n.target for n in made.graph.nodes if n.op == "placeholder"] == before
    for batch in (3, 5):
        assert made(pictures(batch)).shape == (batch, *wanted.shape[1:])


@pytest.mark.parametrize("name", PASSES)
def test_what_is_given_stays_or_is_returned(name: str, graph: fx.GraphModule) -> None:
    code, state = code_of(graph), copy.deepcopy(graph.state_dict())
    owned = {value.data_ptr() for value in graph.parameters()}
    made = PASSES[name](graph)
    assert (made is graph) == PASSES[name].in_place
    after = graph.state_dict()
    assert all(torch.equal(after[key], value) for key, value in state.items())
    if made is not graph:
        assert code_of(graph) == code
        assert not owned & {value.data_ptr() for value in made.parameters()}
        assert made.training == graph.training


@pytest.mark.parametrize("name", SAME)
def test_the_function_stays(name: str, graph: fx.GraphModule) -> None:
    wanted = graph(pictures())
    torch.testing.assert_close(PASSES[name](graph)(pictures()), wanted)


@pytest.mark.parametrize("name", ONCE)
def test_a_second_time_changes_nothing(name: str, graph: fx.GraphModule) -> None:
    once = PASSES[name](graph)
    model = copy.deepcopy(once) if once is graph else once
    again = PASSES[name](sparsefx.capture(model, (pictures(),)).graphs[""])
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in once.state_dict().items()
    }
    torch.testing.assert_close(again(pictures()), once(pictures()))


@pytest.mark.parametrize("kind", IsoFlopPass.__subclasses__())
@pytest.mark.parametrize("option", [
    {"density": 0}, {"density": 1.5}, {"round_to": 0}, {"round_to": 1.5},
    {"iso": "all"}, {"init": "zero"},
])  # fmt: skip
def test_options_out_of_range_are_refused(
    kind: type[IsoFlopPass], option: dict[str, object]
) -> None:
    (name,) = option
    with pytest.raises(sparsefx.PolicyError, match=name):
        kind(**option)


def test_a_graph_that_does_not_hold_together_is_not_touched() -> None:
    graph = fx.symbolic_trace(nn.Sequential(nn.ReLU(), nn.ReLU()))
    first, second = list(graph.graph.nodes)[1:3]
    second.append(first)
    with pytest.raises(RuntimeError, match="used before"):
        passes.SplitAttention()(graph)
