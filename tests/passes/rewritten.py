"""The networks of the zoo as graphs, each recorded and priced once."""

import functools

import torch
from torch import Tensor, fx, nn

import sparsefx
from tests.rewrites import ZOO, example


def graph_of(net: nn.Module, x: Tensor) -> fx.GraphModule:
    return sparsefx.capture(net, (x,)).graphs[""]


@functools.cache
def recorded(
    name: str,
) -> tuple[nn.Module, Tensor, fx.GraphModule, dict[str, float]]:
    """The network, its input, its graph and what it costs."""
    make, shape = ZOO[name]
    net, x = make(), example(shape)
    dense = sparsefx.costs(net, (x,)).totals()["macs"]
    return net, x, graph_of(net, x), dense


def slope(module: nn.Module, x: Tensor, names: list[str]) -> tuple[float, float]:
    """The slope of the mean square output along a random direction of these weights.

    By the gradient, and by the difference of two values, in double precision.
    """
    module = module.double().eval()  # no chance in it
    x = x.double() if x.is_floating_point() else x
    weights = [module.get_parameter(name) for name in names]
    module.zero_grad()
    module(x).square().mean().backward()
    ways = [torch.randn_like(weight) for weight in weights]
    pairs = zip(weights, ways, strict=True)
    by_gradient = sum(float((w.grad * way).sum()) for w, way in pairs)
    values = []
    with torch.no_grad():
        for step in (1e-8, -2e-8):
            for weight, way in zip(weights, ways, strict=True):
                weight += step * way
            values.append(float(module(x).square().mean()))
    return by_gradient, (values[0] - values[1]) / 2e-8
