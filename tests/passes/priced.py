"""Costs of a function or a module, as captured."""

import torch
from torch import fx, nn
from torch.fx.passes.fake_tensor_prop import FakeTensorProp
from torch.utils.flop_counter import FlopCounterMode

from sparsefx.passes.annotate_costs import cost_table
from sparsefx.torch_internals import fake_input, fake_mode
from sparsefx.tracing.symbolic_inputs import on_fakes


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
    mode = fake_mode()
    fakes = [
        fake_input(mode, x, [dim == batch_dim for dim in range(x.ndim)]) for x in inputs
    ]
    with on_fakes(mode):
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
