"""What is dead is cut from the graph, and what it said is folded."""

from typing import Any

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.lowering.inference_graph import graph_of


def cut(model, x):
    return graph_of(model.eval(), (x,), shrink=True)[0]


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Softplus()])
@pytest.mark.parametrize("bias", [True, False])
def test_dead_neurons_are_cut_and_their_constants_folded(act: Any, bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 8), act, nn.Linear(8, 7, bias=bias), act, nn.Linear(7, 3)
    ).double()
    with torch.no_grad():
        net[0].weight[[1, 2]] = 0  # silent: a constant sigmoid(b) remains
        net[2].weight[:, 5] = 0  # nobody listens
        net[4].weight[:, [0, 6]] = 0
    x = torch.randn(4, 5, dtype=torch.float64)
    small = cut(net, x)
    assert small.state_dict()["0.weight"].shape == (5, 5)
    assert small.state_dict()["2.weight"].shape == (5, 5)
    torch.testing.assert_close(small(x), net(x), atol=1e-12, rtol=1e-12)


def test_a_cut_may_allow_another() -> None:
    """Neuron 0 of the last hidden layer dies, then what only it listened to."""
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        net[2].weight.copy_(torch.eye(2))
        net[3].weight[0, 0] = 0
    small = cut(net, torch.randn(2, 3))
    assert small.state_dict()["0.weight"].shape == (1, 3)


def convs(padding, norm=True):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=padding, bias=False),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 3, padding=padding),
    ).double()
    with torch.no_grad():
        net[0].weight[:3] = 0
        if norm:
            net[1].running_mean.normal_()
            net[1].bias.copy_(torch.tensor([5.0, -5.0, -5.0, 1, 1, 1, 1, 1]))
            net[1].running_mean[:3] = 0
    return net.eval()


@pytest.mark.parametrize("padding", [0, 1])
def test_dead_channels_through_norm_and_pool(padding: int) -> None:
    """Channel 0 says relu(5), which a padded border does not: there it stays."""
    net = convs(padding)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    small = cut(net, x)
    left = 5 + padding
    assert small.state_dict()["0.weight"].shape == (left, 3, 3, 3)
    assert small.get_submodule("1").num_features == left
    torch.testing.assert_close(small(x), net(x), atol=1e-12, rtol=1e-12)
    assert net[1].num_features == 8


class Seen(nn.Module):
    """Its hidden units are seen one by one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        hidden = self.a(x).relu()
        return self.b(hidden) + hidden[..., :2]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).relu())


@pytest.mark.parametrize("kind", [Seen, Tied])
def test_units_that_others_see_stay(kind: type[nn.Module]) -> None:
    net = kind()
    with torch.no_grad():
        net.a.weight[0] = 0
    small = cut(net, torch.randn(2, 4))
    assert small.state_dict()["a.weight"].shape == net.a.weight.shape


def test_a_layer_keeps_one_unit() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.zero_()
    x = torch.randn(2, 3)
    small = cut(net, x)
    assert small.state_dict()["0.weight"].shape == (1, 3)
    torch.testing.assert_close(small(x), net(x))


class Autocasts(nn.Module):
    """A graph that no plain graph module can hold, with a neuron that is zero."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.b(self.a(x).relu()).float()


def test_units_that_cannot_be_cut_are_told():
    net = Autocasts().eval()
    with torch.no_grad():
        net.a.weight[0] = 0
    x = torch.randn(2, 4)
    with pytest.warns(UserWarning, match="autocast"):
        lowered = sparsefx.lower(net, (x,), compile=False)
    torch.testing.assert_close(lowered(x), net(x), atol=1e-2, rtol=1e-2)


def test_a_layer_called_twice_takes_each_constant_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.c(self.a(x).relu()) * self.c(self.b(x).sigmoid())

    torch.manual_seed(0)
    net, x = Twice().double(), torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        net.a.weight[1] = 0
        net.b.weight[1] = 0
        net.a.bias.add_(1)
    torch.testing.assert_close(cut(net, x)(x), net(x), atol=1e-12, rtol=1e-12)


def test_a_bias_that_two_layers_share_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(4, 3)
            self.c.bias = self.b.bias

        def forward(self, x):
            return self.b(self.a(x).sigmoid()) * self.c(x)

    torch.manual_seed(0)
    net, x = Shared().double(), torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        net.a.weight[2] = 0
    torch.testing.assert_close(cut(net, x)(x), net(x), atol=1e-12, rtol=1e-12)
