"""Every operation of the table: cut, widened and short of tokens, the same function.

Each stands between two layers. Units are cut where that is possible, and the model
computes what it did with their gates at 0; it is widened, and computes what it did;
where either is refused, the reason names the operation.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx
from sparsefx.errors import MaskError, PolicyError, SparsefxError
from sparsefx.passes import GateUnits, ShrinkUnits, SparseWide, find_units
from sparsefx.passes.iso_flop.replaceable_layers import ACTIVATIONS
from sparsefx.passes.units.tag_rules import rule_of as units_rule
from sparsefx.passes.widths.rule_table import rule_of as widths_rule
from sparsefx.tracing.operations import OPERATIONS, plain
from tests.operation_calls import CALLS, Between

HELD = {  # channels between two layers that no rule lets go, though it could
    "view", "reshape", "unflatten", "roll", "index_select", "local_response_norm",
    "linear", "embedding", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum",
    "scaled_dot_product_attention",
}  # fmt: skip
TRIED = [name for name in OPERATIONS if CALLS.get(name, True) is not None]


def test_both_analyses_know_every_operation():
    assert all(units_rule(name) and widths_rule(name) for name in OPERATIONS)
    assert {plain(name) for name in ACTIVATIONS} <= {
        name for name, kind in OPERATIONS.items() if kind == "each"
    }
    assert units_rule("nobody") is None
    assert widths_rule("nobody") is None


def test_every_operation_is_tried():
    assert CALLS.keys() <= OPERATIONS.keys()
    assert len(TRIED) > 0.9 * len(OPERATIONS)


def tried():
    """All of them, most of those that go entry by entry where time does not matter."""
    for i, name in enumerate(TRIED):
        alike = OPERATIONS[name] == "each" and i % 12
        yield pytest.param(name, marks=(pytest.mark.slow,) if alike else ())


def widened(graph):
    """The wider graph, or None where the reason for none is given."""
    try:
        return SparseWide(0.5, init="keep")(graph)
    except SparsefxError as error:
        if "held (" in str(error):
            return None
        raise


@settings(max_examples=1)
@given(
    batch=st.integers(2, 5),
    fours=st.integers(2, 4),
    twos=st.integers(2, 5),
    seed=st.integers(0, 2**31),
)
@pytest.mark.parametrize("name", list(tried()))
def test_cut_and_widened_are_the_same_function(name, batch, fours, twos, seed):
    torch.manual_seed(seed)
    model = Between(name, 4 * fours, 2 * twos).double().eval()
    x = torch.randn(batch, 3, 2 * twos).double()
    graph = sparsefx.capture(model, (x,)).graphs[""]
    wide = widened(graph)
    if wide is not None:
        out = wide.eval()(x)
        assert out.shape == model(x).shape
        if OPERATIONS[name] not in ("mixes", "reduces", "norms", "multiplies"):
            torch.testing.assert_close(out, model(x))
    units = find_units(graph)
    assert bool(units.groups) == (name not in HELD)
    if not units.groups:
        assert units.refused["first.weight"]
    else:
        gates = GateUnits(units)(graph)._modules["_units"]
        for index, group in enumerate(gates.names):
            keep = torch.rand(len(gates[group])) < 0.5
            keep[index % len(keep)] = True
            gates.set(group, keep)
        torch.testing.assert_close(ShrinkUnits(units=units)(graph)(x), graph(x))


class Odd(nn.Module):
    """Something that no rule knows, between two layers."""

    def __init__(self, call):
        super().__init__()
        self.call = call
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.call(self.first(x)))


@pytest.mark.parametrize("call", [
    lambda x: x.sort(-1).values,
    lambda x: x.cummax(-1).values,
    lambda x: torch.trapezoid(x, dim=0) + x,
    lambda x: x.index_fill(-1, torch.tensor([1]), 0.0),
    lambda x: x[:, [3, 1, 2, 0, 7, 6, 5, 4]],
    lambda x: x[:, torch.arange(8) > 3].repeat(1, 2),
])  # fmt: skip
def test_what_no_rule_knows_is_refused_by_name(call):
    model, x = Odd(call), torch.randn(3, 4)
    graph = sparsefx.capture(model, (x,)).graphs[""]
    units = find_units(graph)
    assert not units.groups
    assert units.refused["first.weight"]
    with pytest.raises(MaskError, match=r"first\.weight"):
        sparsefx.transform(model, "units", example_inputs=(x,), budget={"macs": 0.5})
    with pytest.raises(PolicyError, match="held"):
        SparseWide(0.5, select=("first",))(graph)


NORMS = {
    "prelu": nn.PReLU(16), "one slope": nn.PReLU(), "group": nn.GroupNorm(4, 16),
    "batch": nn.BatchNorm2d(16), "instance": nn.InstanceNorm2d(16, affine=True),
    "tracking": nn.InstanceNorm2d(16, affine=True, track_running_stats=True),
    "glu": nn.GLU(1),
}  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
def test_units_before_a_norm_are_removed(norm):
    torch.manual_seed(0)
    width = 8 if norm == "glu" else 16
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), NORMS[norm], nn.Conv2d(width, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    for value in net[1].parameters():
        nn.init.uniform_(value)
    x = torch.randn(2, 3, 10, 10)
    sparse = sparsefx.transform(net, "units", example_inputs=(x,), budget={"macs": 0.5})
    dense = sparsefx.finalize(sparse.eval())
    torch.testing.assert_close(dense(x), sparse(x))
    cut = sparsefx.lower(dense, (x,), target="removal", compile=False)
    torch.testing.assert_close(cut(x), dense(x), atol=1e-5, rtol=1e-5)
    shapes = {row.name: row for row in cut.report.layers}
    assert shapes["0.weight"].chosen == "removal"
