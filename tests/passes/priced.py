"""Costs of a function or a module, as captured."""

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils.flop_counter import FlopCounterMode

from sparsefx.passes.annotate_costs import cost_table


class Opened(fx.Tracer):
    def is_leaf_module(self, module, qualified_name):
        return isinstance(module, nn.BatchNorm2d)


class Call(nn.Module):
    """A function of an input and of parameters, as a module."""

    def __init__(self, function, **shapes):
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))

    def forward(self, x):
        return self.function(self, x)


def capture(module, *inputs, batch_dim=0):
    """A graph with recorded values; ``batch_dim`` (or no one, None) is symbolic."""
    traced = fx.GraphModule(module, Opened().trace(module))
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    fakes = []
    for x in inputs:
        dims = [DimDynamic.STATIC] * x.ndim
        if batch_dim is not None:
            dims[batch_dim] = DimDynamic.DYNAMIC
        context = StatelessSymbolicContext(dynamic_sizes=dims)
        fakes.append(mode.from_tensor(x, symbolic_context=context))
    with mode:
        FakeTensorProp(traced, mode).propagate_dont_convert_inputs(*fakes)
    return traced


def table_of(module, *inputs, batch_dim=0):
    return cost_table(module, {"": capture(module, *inputs, batch_dim=batch_dim)})


def flop_counter_macs(module, *inputs):
    with FlopCounterMode(display=False) as counter:
        module(*inputs)
    return counter.get_total_flops() // 2


def macs(table):
    return table.totals()["macs"]["total"]
