"""Weights whose rows are no units: the reason names the operation that did it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefx
from sparsefx.errors import MaskError
from sparsefx.passes import find_units
from tests.some_of import some_of


class Net(nn.Module):
    """Something between two layers, beside neurons that are always found."""

    def __init__(self, call):
        super().__init__()
        self.call = call
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 4)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.register_buffer("mix", torch.randn(3, 3))

    def forward(self, x):
        y = self.last(self.call(self, self.first(x)))
        return y + self.down(torch.relu(self.up(x)))


LOST = {
    "linear": lambda net, h: F.linear(h[0], h[1]) @ h,
    "matmul": lambda net, h: net.mix @ h,
    "bmm": lambda net, h: torch.bmm(h, h.mT) @ h,
    "baddbmm": lambda net, h: torch.baddbmm(h, net.mix.expand(2, 3, 3), h),
    "einsum": lambda net, h: torch.einsum("btc,bsc->bts", h, h) @ h,
    "scaled_dot_product_attention": lambda net, h: (
        F.scaled_dot_product_attention(h.mT, h.mT, h.mT).mT
    ),
    "layer_norm": lambda net, h: F.layer_norm(h, (8,)),
    "softmax": lambda net, h: h.softmax(-1),
    "local_response_norm": lambda net, h: F.local_response_norm(h.mT, 2).mT,
    "roll": lambda net, h: h.roll(1, -1),
    "sort": lambda net, h: h.sort(-1).values,
}


@pytest.mark.parametrize("name", some_of(LOST, 3))
def test_the_reason_names_the_operation(name):
    x = torch.randn(2, 3, 4)
    model = Net(LOST[name]).double()
    units = find_units(sparsefx.capture(model, (x.double(),)).graphs[""])
    assert list(units.groups) == ["down.neurons"]
    assert name in units.refused["first.weight"]
    assert "up.weight" not in units.refused


def test_reports_and_refusals_tell_the_reason():
    model, given = Net(LOST["softmax"]), {"example_inputs": (torch.randn(2, 3, 4),)}
    sparse = sparsefx.transform(model, "units", **given, budget={"params": 0.9})
    rows = {row.parameter: row for row in sparsefx.report(sparse).coverage}
    assert (rows["first.weight"].masked, rows["up.weight"].masked) == (None, "graph")
    assert rows["first.weight"].reason.startswith("softmax combines")
    with pytest.raises(MaskError, match=r"first\.weight \(softmax combines"):
        sparsefx.transform(model, "units", **given, budget={"params": 0.9}, strict=True)


def test_what_nobody_takes_and_what_is_returned():
    net = nn.Sequential(nn.Linear(4, 3))
    graph = sparsefx.capture(net, (torch.ones(2, 4),)).graphs[""]
    reasons = find_units(graph).refused
    assert reasons == {"0.weight": "the model returns what it computes"}
