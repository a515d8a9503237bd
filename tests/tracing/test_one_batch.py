"""Graphs that hold for one batch size say so, and nothing uses them for another."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

import sparsefx
from sparsefx.passes.graphs.node_writer import Writer
from sparsefx.passes.graphs.owned_graph import own_graph
from sparsefx.passes.shrink_units import ShrinkUnits
from sparsefx.tracing.capture import capture
from tests import models

X = torch.linspace(-1, 1, 4 * 6).reshape(4, 6)


class Between(nn.Module):
    """Two layers and a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.function(self.a(x)))
        return out


def resized(x: Tensor) -> Tensor:
    return functional.interpolate(x[:, None], scale_factor=2.0)[:, 0, :6]


def pieces(x: Tensor) -> Tensor:
    return torch.cat(x.split(1))


@pytest.fixture(params=[pieces, resized])
def narrow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Between:
    # a torch whose kernels ask symbolic sizes for numbers, as those of 2.11 do
    monkeypatch.setattr("sparsefx.tracing.symbolic_inputs.python_kernels", nullcontext)
    torch.manual_seed(0)
    return Between(request.param).eval()


def test_the_graph_says_so(narrow: Between) -> None:
    found = capture(narrow, (X,))
    program = found.programs[""]
    assert program.one_batch == "the batch size decides which code runs"
    assert "at this batch size only, because the batch size decides" in str(found)
    assert program.run(narrow, (X,), {})[0]
    assert not program.run(narrow, (X[:3],), {})[0]


def test_nothing_loses_the_guards_of_such_a_graph(narrow: Between) -> None:
    graph = capture(narrow, (X,)).graphs[""]
    for use in (own_graph, ShrinkUnits()):
        with pytest.raises(sparsefx.CaptureError, match="only for the batch size of"):
            use(graph)
    with pytest.raises(sparsefx.CaptureError, match="only for the batch size of"):
        sparsefx.transform(narrow, rewrite="sparse_wide", example_inputs=(X,))


def test_models_are_right_at_other_batch_sizes(narrow: Between) -> None:
    narrow.a.weight.data[2:].zero_()
    other = torch.cat([X, X[:3]])
    for target in ("auto", "csr"):
        fast = sparsefx.lower(narrow, (X,), target, compile=False, rounds=1)
        torch.testing.assert_close(fast(other), narrow(other))
    sparse = sparsefx.transform(narrow, budget=0.5, example_inputs=(X,)).eval()
    wanted = sparsefx.finalize(sparse)(other)
    torch.testing.assert_close(sparse(other), wanted)


@pytest.mark.parametrize(
    "function",
    [
        resized,
        lambda x: x * x.shape[0],
        lambda x: x @ x.mT @ x,
        lambda x: torch.addcmul(x, x, x, value=0.5),
        lambda x: torch.baddbmm(x[:, None], x[:, None, :1], x[:, None])[:, 0],
        lambda x: functional.scaled_dot_product_attention(*[x[:, None]] * 3)[:, 0],
    ],
    ids=["interpolate", "size", "matmul", "addcmul", "baddbmm", "attention"],
)
def test_batches_stay_free(function: Callable[[Tensor], Tensor]) -> None:
    model = Between(function)
    program = capture(model, (X,)).programs[""]
    assert program.batch == 4
    assert not program.one_batch
    done, out = program.run(model, (X[:3],), {})
    assert done
    torch.testing.assert_close(out, model(X[:3]))


@pytest.mark.parametrize("size", [1, 4])
def test_models_of_one_batch_size_have_whole_graphs(size: int) -> None:
    model = Between(lambda x: x.reshape(size, 6))  # its Python takes no other either
    found = capture(model, (X[:size],))
    assert found.programs[""].batch is None
    assert not found.programs[""].one_batch
    own_graph(found.graphs[""])


def test_a_batch_of_one_can_be_the_only_one() -> None:
    found = capture(models.StaticBatch(), (X[:1],))
    assert found.programs[""].one_batch


def test_rewrites_do_not_fix_sizes() -> None:
    graph = capture(nn.Linear(6, 6), (X,)).graphs[""].graph
    (x,) = (node for node in graph.nodes if node.op == "placeholder")
    with (
        graph.inserting_after(x),
        pytest.raises(sparsefx.CaptureError, match="the batch size decides"),
    ):
        Writer(graph, "")("split", x, 1)


def test_graphs_have_no_attributes_but_the_modules() -> None:
    graph = capture(nn.Sequential(Between(resized)), (X,)).graphs[""]
    assert isinstance(graph, fx.GraphModule)
    assert not hasattr(graph, "nothing")
    inner = graph.get_submodule("0.a")
    assert not hasattr(inner, "graph")
    assert isinstance(inner.weight, Tensor)
    assert "interpolate" in graph.print_readable(print_output=False)
