"""Costs of weights as captured: shapes of every kind, symbols, what is fixed."""

from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx
from tests.passes.priced import Call, flop_counter_macs, macs, table_of

CASES = {
    "linear 2-D": (nn.Linear(6, 5), (4, 6)),
    "linear 3-D": (nn.Linear(6, 5), (4, 7, 6)),
    "linear 4-D": (nn.Linear(6, 5), (4, 3, 2, 6)),
    "linear 5-D": (nn.Linear(6, 5), (4, 3, 2, 2, 6)),
    "linear 6-D": (nn.Linear(6, 5), (4, 3, 2, 2, 3, 6)),
    "linear one output": (nn.Linear(6, 1), (4, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, dilation=2), (3, 4, 20)),
    "conv2d": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 9, 7)),
    "conv2d groups": (nn.Conv2d(4, 6, 3, groups=2, dilation=2), (3, 4, 9, 7)),
    "conv2d depthwise": (nn.Conv2d(4, 8, 3, groups=4), (3, 4, 9, 7)),
    "conv3d": (nn.Conv3d(2, 4, (1, 2, 3)), (3, 2, 4, 5, 6)),
    "conv_transpose1d": (
        Call(lambda m, x: F.conv_transpose1d(x, m.w, stride=2), w=(4, 6, 3)),
        (3, 4, 5),
    ),
    "conv_transpose2d": (
        Call(lambda m, x: F.conv_transpose2d(x, m.w, groups=2), w=(4, 3, 3, 2)),
        (3, 4, 5, 6),
    ),
    "conv_transpose3d": (
        Call(lambda m, x: F.conv_transpose3d(x, weight=m.w), w=(2, 4, 2, 2, 2)),
        (3, 2, 3, 4, 5),
    ),
    "matmul right": (Call(lambda m, x: x @ m.w, w=(6, 5)), (4, 7, 6)),
    "matmul left": (Call(lambda m, x: torch.matmul(m.w, x), w=(5, 7)), (4, 7, 6)),
    "matmul view": (Call(lambda m, x: x.matmul(m.w.t().to(x.dtype)), w=(5, 6)), (4, 6)),
    "matmul T": (Call(lambda m, x: torch.mm(x, m.w.T), w=(5, 6)), (4, 6)),
    "addmm": (Call(lambda m, x: torch.addmm(m.b, x, m.w), w=(6, 5), b=(5,)), (4, 6)),
    "experts": (
        Call(lambda m, x: torch.bmm(x.transpose(0, 1), m.w), w=(3, 6, 5)),
        (4, 3, 6),
    ),
    "baddbmm": (
        Call(lambda m, x: torch.baddbmm(x, x, m.w.expand_as(x)), w=(1, 6, 6)),
        (4, 6, 6),
    ),
    "expanded": (
        Call(lambda m, x: torch.bmm(x, m.w.expand(x.shape[0], -1, -1)), w=(1, 6, 5)),
        (4, 7, 6),
    ),
    "einsum": (
        Call(lambda m, x: torch.einsum("bthd,hde->bte", x, m.w), w=(3, 6, 5)),
        (4, 7, 3, 6),
    ),
    "einsum ellipsis": (
        Call(lambda m, x: torch.einsum("... i, o i -> ... o", x, m.w), w=(5, 6)),
        (4, 7, 6),
    ),
    "einsum first": (
        Call(lambda m, x: torch.einsum("oi,bit->bot", m.w, x), w=(5, 6)),
        (4, 6, 7),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_agree_with_flop_counter(name: str) -> None:
    module, shape = CASES[name]
    x = torch.randn(shape)
    for batch_dim in (0, None):
        table = table_of(module, x, batch_dim=batch_dim)
        totals = table.totals()["macs"]
        assert totals["maskable"] == totals["total"] == flop_counter_macs(module, x)
    # The formula of one batch size is right at another.
    other = torch.randn(2 * shape[0] + 1, *shape[1:])
    (row,) = [row for row in table_of(module, x) if row.maskable]
    assert row.number("macs", {"batch": len(other)}) == flop_counter_macs(module, other)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: x @ x.transpose(-2, -1),
        lambda m, x: torch.einsum("bti,bsi->bts", x, x),
        lambda m, x: x.matmul(x.transpose(-2, -1)).bmm(x),
        lambda m, x: F.linear(x, x.mean((0, 1), keepdim=True)[0].expand(3, -1)),
    ],
)
def test_products_of_activations_are_fixed(function: Callable[..., Any]) -> None:
    module, x = Call(function), torch.randn(4, 7, 6)
    table = table_of(module, x)
    assert not any(row.maskable for row in table)
    assert macs(table) == flop_counter_macs(module, x)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_convolutions_of_any_shape(data: st.DataObject) -> None:
    draw = lambda *bounds: data.draw(st.integers(*bounds))  # noqa: E731
    rank, groups = draw(1, 3), draw(1, 3)
    kernel = [draw(1, 3) for _ in range(rank)]
    dilation = draw(1, 2)
    spatial = [draw(1, 7) for _ in range(rank)]
    padding = draw(0, 1)
    for size, width in zip(spatial, kernel, strict=True):
        assume(size + 2 * padding > dilation * (width - 1))
        assume((size - 1) + dilation * (width - 1) + 1 > 2 * padding)
    transposed = data.draw(st.booleans())
    per_group, groups_out = draw(1, 2), draw(1, 2)
    inputs = groups * per_group
    shape = (inputs, groups_out) if transposed else (groups * groups_out, per_group)
    function = getattr(F, f"conv{'_transpose' * transposed}{rank}d")
    options = {"stride": draw(1, 3), "padding": padding, "dilation": dilation}
    module = Call(
        lambda m, x: function(x, m.w, groups=groups, **options), w=(*shape, *kernel)
    )
    x = torch.randn(draw(2, 3), inputs, *spatial)
    assert macs(table_of(module, x)) == flop_counter_macs(module, x)


def test_symbols_have_the_names_of_sizes() -> None:
    def names(module, shape, **options):
        (row,) = [r for r in table_of(module, torch.randn(shape), **options) if r.macs]
        return str(row.per_weight()["macs"])

    assert names(nn.Linear(6, 5), (4, 6)) == "batch"
    assert names(nn.Linear(6, 5), (6,), batch_dim=None) == "1"
    assert names(nn.Linear(6, 5), (4, 7, 6)) == "batch*tokens"
    assert names(nn.Linear(6, 5), (7, 4, 6), batch_dim=1) == "batch*tokens"
    assert names(nn.Linear(6, 5), (4, 2, 3, 6)) == "batch*height*width"
    assert names(nn.Conv1d(4, 6, 3), (3, 4, 9)) == "batch*length"
    assert names(nn.Conv2d(4, 6, 3), (3, 4, 9, 7)) == "batch*height*width"
    assert names(nn.Conv2d(4, 6, 3), (4, 9, 7), batch_dim=None) == "height*width"
    assert names(nn.Conv3d(4, 6, 1), (3, 4, 2, 2, 3)) == "batch*depth*height*width"


def test_a_batch_folded_into_windows_stays_the_batch() -> None:
    module = nn.Sequential(nn.Unflatten(1, (3, 5)), nn.Flatten(0, 1), nn.Linear(6, 2))
    row = table_of(module, torch.randn(4, 15, 6))["2.weight"]
    assert row.macs == 36 * sympy.Symbol("batch") * sympy.Symbol("tokens")
    assert dict(row.sizes) == {"batch": 4, "tokens": 5}
    assert row.number() == 4 * 15 * 12


def test_a_map_of_constants_does_not_depend_on_the_batch() -> None:
    def forward(module, x):
        return x @ module.w + F.linear(module.grid, module.v)

    module = Call(forward, w=(6, 5), v=(5, 2), grid=(7, 2))
    table = table_of(module, torch.randn(4, 7, 6))
    assert str(table["v"].macs) == "10*tokens"
    assert table["v"].number("macs", {"batch": 100}) == 70
    assert table["grid"].reason == "no weight operation takes it as it is"


def test_uses_of_different_sizes_are_numbered() -> None:
    def forward(module, x):
        return (x @ module.w).mean(), (x[:, :3] @ module.w).sum(), x @ module.w

    module = Call(forward, w=(6, 5))
    row = table_of(module, torch.randn(4, 7, 6))["w"]
    batch, tokens, other = sympy.symbols("batch tokens tokens_2")
    assert sympy.expand(row.macs - 30 * batch * (2 * tokens + other)) == 0
    assert dict(row.sizes) == {"batch": 4, "tokens": 7, "tokens_2": 3}


def test_a_batch_of_one_given_by_name_counts_once() -> None:
    net = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 4))
    ids = torch.zeros(1, 16, dtype=torch.long)
    wanted = 16 * 8 * 4
    assert sparsefx.costs(net, (ids,)).totals()["macs"]["total"] == wanted
    found = sparsefx.costs(net, {"input": ids})
    assert found.totals()["macs"]["total"] == wanted
