"""Granularities: how they are written, and how weights are cut."""

import dataclasses

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.errors import BudgetError, PolicyError
from sparsefx.masking.cut_groups import grouping
from sparsefx.policies.round_to import multiples
from sparsefx.settings.granularity import Granularity
from sparsefx.solver.joint_budgets import Limits
from tests.grouped_models import X, labels, members, net, sparse_of


@pytest.mark.parametrize(
    "text",
    [
        "unstructured",
        "channel",
        "kernel",
        "2:4",
        "block:16x16",
        "block:1x4:pad",
        "block:2x4:taps",
        "block:2x4:taps:pad",
    ],
)
def test_a_granularity_reads_as_it_is_written(text: str) -> None:
    assert str(Granularity.parse(text)) == text
    assert str(Granularity.parse(f" {text.upper()} ")) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head", 'allowed: unstructured, "block:HxW"'),
        ("4:2", "N must be at least 1 and below M"),
        ("4:4", "N must be at least 1 and below M"),
        ("0:4", "N must be at least 1 and below M"),
        ("2:1000", "M at most 64"),
        ("block:0x4", "blocks hold two weights or more"),
        ("block:1x1", "blocks hold two weights or more"),
        ("block:4", "allowed: unstructured"),
    ],
)
def test_other_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Granularity.parse(text)


@pytest.mark.parametrize(
    ("text", "shape", "op", "message"),
    [
        ("block:8x8", (12, 16), "linear", r"w \(linear, 12 x 16\).*its 12 rows.*:pad"),
        ("block:4x5", (12, 16), "linear", "its 16 columns are no multiple of 5"),
        ("2:4", (12, 18), "linear", "its 18 inputs are no multiple of 4"),
        ("2:4", (8, 3, 3, 3), "conv2d", "its 3 inputs are no multiple of 4"),
        ("kernel", (8, 8), "linear", "only convolutions have kernels"),
        ("kernel", (8, 8, 1, 1), "conv2d", "its kernels hold one weight each"),
        ("channel", (8, 8), "einsum", "which of its dimensions are outputs"),
    ],
)
def test_weights_that_cannot_be_cut_are_refused_by_name(
    text: str, shape: tuple[int, ...], op: str, message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        grouping(text, shape, op, "w")


def test_a_model_with_a_misfit_is_refused_or_left_dense_by_choice() -> None:
    with pytest.raises(PolicyError, match=r"0\.weight \(linear, 12 x 16\)"):
        sparse_of("block:8x8")
    with (
        pytest.warns(UserWarning, match=r"1 weights stay dense: 0\.weight \(cannot"),
        pytest.warns(UserWarning, match=r"\(0\.weight\) take 95% of the budget"),
    ):
        sparse = sparse_of("block:8x4", fallback="dense")
    assert list(sparsefx.masks(sparse)) == ["2.weight"]
    row = sparsefx.report(sparse).to_dict()["coverage"][0]
    assert row["masked"] is None
    assert "its 12 rows are no multiple of 8" in row["reason"]


def test_a_misfit_behind_a_layer_that_is_left_out_is_found() -> None:
    layers = [nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, 8)]
    with pytest.warns(UserWarning, match=r"stay dense: 1\.weight \(cannot"):
        sparse = sparse_of(
            "block:8x4", nn.Sequential(*layers), exclude=("0",), fallback="dense",
            budget=0.9, budget_of="selected",
        )  # fmt: skip
    assert list(sparsefx.masks(sparse)) == ["2.weight"]


def test_layers_differ_by_pattern() -> None:
    sparse = sparse_of("block:2x4", layers={"2": {"granularity": "2:4"}})
    rows = sparsefx.report(sparse).to_dict()["layers"]
    assert [row["granularity"] for row in rows] == ["block:2x4", "2:4"]
    code = sparsefx.graphs(sparse)[""].code
    assert all(f"masked_weight_{index}(" in code for index in range(2))
    nodes = [m for m in sparse.modules() if type(m).__name__ == "MaskedWeight"]
    assert [repr(node) for node in nodes] == [
        "MaskedWeight(0.weight, block:2x4)",
        "MaskedWeight(2.weight, 2:4)",
    ]


def test_a_bound_below_what_n_of_m_keeps_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"below the 0\.5 that 2:4 keeps"):
        sparse_of("2:4", max_density=0.3)


@pytest.mark.parametrize(
    ("text", "shape", "op"),
    [
        ("block:2x4", (4, 8), "linear"),
        ("block:3x5:pad", (7, 11), "linear"),
        ("block:2x6", (4, 2, 3, 3), "conv2d"),
        ("block:2x4:taps", (4, 8, 3, 2), "conv2d"),
        ("block:2x4:taps:pad", (5, 3, 2, 3), "conv_transpose2d"),
        ("block:2x4:taps", (4, 8), "linear"),
        ("block:2x4:pad", (3, 5, 3), "conv_transpose1d"),
        ("channel", (4, 3, 2, 2), "conv2d"),
        ("channel", (4, 3, 2, 2), "conv_transpose2d"),
        ("kernel", (4, 3, 2, 2), "conv2d"),
        ("kernel", (4, 3, 2, 2), "conv_transpose2d"),
        ("channel", (4, 6), "linear"),
    ],
)
def test_groups_are_those_of_the_definition(
    text: str, shape: tuple[int, ...], op: str
) -> None:
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    groups = grouping(text, shape, op)
    values = groups.values(weight).tolist()
    sets = members(labels(text, shape, op.startswith("conv_transpose")))
    a = weight.detach().abs().numpy()
    means = [sum(a[i] for i in of) / groups.size for of in sets.values()]
    assert sorted(values) == pytest.approx(sorted(means), abs=1e-12)
    kept = torch.arange(groups.count) % 3 == 0
    mask = groups.expand(weight, kept)
    assert mask.shape == weight.shape
    for of in sets.values():
        assert len({bool(mask[i]) for i in of}) == 1
    # the pull is the derivative of the values
    slopes = torch.randn(groups.count, dtype=torch.float64)
    moved = weight.detach() + 1e-6 * (direction := torch.randn_like(weight).detach())
    change = (groups.values(moved) - groups.values(weight)) / 1e-6
    pulled = (groups.pull(weight.detach(), slopes) * direction).sum()
    torch.testing.assert_close((change * slopes).sum(), pulled, rtol=1e-5, atol=1e-5)


def test_blocks_of_stacked_matrices_lie_in_one_of_them() -> None:
    stack = torch.randn(4, 6, 9)
    found = grouping("block:2x3", (4, 6, 9), "matmul").values(stack)
    one = grouping("block:2x3", (6, 9), "linear")
    torch.testing.assert_close(found, torch.cat([one.values(w) for w in stack]))


@pytest.mark.parametrize("policy", ["cost_budget", "uniform", "rigl"])
def test_kept_channels_are_multiples(policy: str) -> None:
    with pytest.raises(BudgetError, match="satisfiable"):
        sparse_of("channel", budget=0.3, round_to=4)
    for budget in (0.45, 0.55, 0.8, 1.0):
        more = {"optimizer_state": "keep"} if policy == "rigl" else {"beta": 3.0}
        sparse = sparsefx.transform(
            net(),
            example_inputs=(X,),
            granularity="channel",
            policy=policy,
            budget={"macs": budget},
            round_to=4,
            layers={"2": {"round_to": 3}},
            **more,
        )
        info = sparsefx.step(sparse)
        assert info.hard_cost <= info.budget
        masks = sparsefx.masks(sparse)
        kept = [int(mask.any(1).sum()) for mask in masks.values()]
        assert kept[0] % 4 == 0
        assert kept[1] % 3 == 0 or kept[1] == 8
    assert kept == [12, 8]


def test_multiples_spend_what_rounding_frees() -> None:
    sites = sparsefx.sites(sparse_of("channel"))
    sites = [dataclasses.replace(s, round_to=4) for s in sites]
    budget = Limits(((1.0, 1.0),), (15.0,), ("macs",))
    found = multiples(sites, [(0, 12), (0, 8)], [7, 7], budget)
    assert found == [(8, 8), (4, 4)]


def test_a_multiple_that_bounds_forbid_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"no multiple of round_to 5 lies between"):
        sparse_of("channel", layers={"2": {"round_to": 5, "density": 0.5}})
