"""Activations become part of the linear layers and convolutions before them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsefx
from sparsefx.kernels.sparse_product import Form
from sparsefx.lowering.dense_layer import Dense, Window
from sparsefx.lowering.fold_followers import fold_followers
from sparsefx.lowering.packed_convolution import PackedConvolution
from sparsefx.lowering.packed_layer import PackedLayer
from tests.lowering.thin_models import thinned

CALLS: dict[str, Any] = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "hardswish": nn.Hardswish(),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
}


class Net(nn.Module):
    """A convolution and a linear layer before activations, and one that stays."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3), act
        self.a, self.b = nn.Linear(8, 24), nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x)).mean((2, 3))
        z = self.b(self.act(self.a(y)))
        return self.act(z) + z


@pytest.mark.parametrize("name", CALLS)
def test_lowered_models_hold_their_activations(name: str) -> None:
    torch.manual_seed(0)
    model, x = thinned(Net(CALLS[name]), density=0.3), torch.randn(4, 3, 9, 9)
    fast = sparsefx.lower(model, (x,), target="csr", compile=False, rounds=1)
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-5)
    assert fast.plan is not None
    kinds = PackedLayer | PackedConvolution
    held = [m for m in fast.plan.modules() if isinstance(m, kinds)]
    assert [m.activation for m in held] == [name, name, "none"]
    own = [m for m in fast.module.modules() if isinstance(m, kinds)]
    assert {m.activation for m in own} == {"none"}
    program = torch.export.export(fast, (x,)).module()
    torch.testing.assert_close(program(x), model(x), atol=1e-5, rtol=1e-5)


def linear() -> PackedLayer:
    return PackedLayer(Dense("w", torch.ones(4, 4), None), Form(16, 8))


def convolution() -> PackedConvolution:
    window = Window((1, 1), (1, 1), (0, 0), (1, 1))
    return PackedConvolution(
        Dense("w", torch.ones(4, 4, 1, 1), None, window), Form(16, 8)
    )


@pytest.mark.parametrize(
    "after",
    [
        lambda g, y: g.call_function(functional.gelu, (y,), {"approximate": "none"}),
        lambda g, y: g.call_function(functional.relu, (y,), {"inplace": True}),
        lambda g, y: g.call_function(torch.relu, (y,)),
    ],
)
@pytest.mark.parametrize("make", [linear, convolution])
def test_spellings(make: Any, after: Any) -> None:
    graph, held = torch.fx.Graph(), {"layer": make()}
    graph.output(after(graph, graph.call_module("layer", (graph.placeholder("x"),))))
    fold_followers(graph, held)
    assert held["layer"].activation in ("gelu", "relu")
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]


@pytest.mark.parametrize(
    "after",
    [
        lambda g, y: g.call_function(torch.tanh, (y,)),
        lambda g, y: g.call_function(torch.add, (g.call_function(torch.relu, (y,)), y)),
        lambda g, y: g.call_module("norm", (y,)),
    ],
)
def test_what_is_no_activation_of_the_layer_alone_stays(after: Any) -> None:
    graph = torch.fx.Graph()
    held: dict[str, nn.Module] = {"layer": linear(), "norm": nn.BatchNorm2d(4).eval()}
    graph.output(after(graph, graph.call_module("layer", (graph.placeholder("x"),))))
    before = [node.name for node in graph.nodes]
    fold_followers(graph, held)
    assert [node.name for node in graph.nodes] == before
    assert held["layer"].activation == "none"
