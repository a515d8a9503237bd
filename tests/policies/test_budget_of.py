"""What a budget is of: all that masks can save, the model, the selected weights."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx
from sparsefx.errors import BudgetError

X = (torch.ones(2, 12),)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 8)
    )


@given(
    st.sets(st.sampled_from("024"), min_size=1),
    st.sampled_from(["macs", "params", "bytes"]),
    st.floats(0.1, 1.0),
    st.sampled_from(["cost_budget", "uniform", "erk", "fixed", "topkast"]),
)
@settings(max_examples=12, deadline=None)
def test_shares_of_the_selected_weights(
    chosen: set[str], cost: str, share: float, policy: str
) -> None:
    sparse = sparsefx.transform(
        net(),
        policy,
        budget={cost: share},
        budget_of="selected",
        include=sorted(chosen),
        example_inputs=X,
    )
    sites = sparsefx.sites(sparse)
    info, masks = sparsefx.step(sparse), sparsefx.masks(sparse)
    dense = sum(site.cost(cost) * site.numel for site in sites)
    kept = sum(site.cost(cost) * int(masks[site.name].sum()) for site in sites)
    assert {site.module for site in sites} == chosen
    assert kept == pytest.approx(info.hard_cost)
    assert info.budget == pytest.approx(share * dense)
    assert kept <= share * dense * (1 + 1e-12)
    assert share * dense - kept < max(site.cost(cost) for site in sites) * (1 + 1e-9)
    report = sparsefx.report(sparse)
    assert report.budgets[cost].met
    assert report.budgets[cost].kept == pytest.approx(kept)
    assert report.totals[cost].fixed >= 0
    for row in report.coverage:
        if row.masked:
            assert row.reason == f"included by {row.module!r}"


def test_an_amount_is_of_the_selected_weights_too() -> None:
    options: dict[str, Any] = {"include": ("4",), "example_inputs": X}
    sparse = sparsefx.transform(
        net(), budget="100 params", budget_of="selected", **options
    )
    assert int(sparsefx.masks(sparse)["4.weight"].sum()) == 100
    with pytest.raises(BudgetError, match="below"):
        sparsefx.transform(net(), budget="100 params", **options)


def test_dense_weights_that_take_most_of_the_budget_are_told() -> None:
    options: dict[str, Any] = {"exclude": ("2",), "example_inputs": X}
    with pytest.warns(UserWarning, match=r"\(2\.weight\) take 83% of the budget of"):
        sparsefx.transform(net(), budget=0.8, **options)
    sparsefx.transform(net(), budget=0.8, budget_of="selected", **options)
    sparsefx.transform(net(), budget=0.8, exclude=("4",), example_inputs=X)


class Tied(nn.Module):
    """A head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.fc = nn.Linear(8, 8)
        self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.fc(self.embed(x)))


@pytest.mark.parametrize("name", ["head", "embed", "head.weight"])
def test_tied_weights_go_by_either_name(name: str) -> None:
    options: dict[str, Any] = {
        "example_inputs": (torch.arange(6).view(2, 3),),
        "budget": {"params": 0.5},
    }
    chosen = {"include": (name,), "budget_of": "selected"}
    sparse = sparsefx.transform(Tied(), **chosen, **options)
    assert list(sparsefx.masks(sparse)) == ["embed.weight"]
    sparse = sparsefx.transform(
        Tied(),
        "layerwise",
        densities={name: 0.25, "fc": 1.0},
        **options,
    )
    assert int(sparsefx.masks(sparse)["embed.weight"].sum()) == 40


@pytest.mark.parametrize("form", ["block:4x4", "block:4x4:pad", "block:3x5:pad"])
def test_blocks_are_stored_whole(form: str) -> None:
    """BSR keeps the values of each block, a column index, and where rows begin."""
    settings: dict[str, Any] = {"granularity": form, "storage": "bsr"}
    sparse = sparsefx.transform(
        net(), budget={"bytes": 0.5}, example_inputs=X, **settings
    )
    height, width = sparsefx.Granularity.parse(form).sizes
    for site in sparsefx.sites(sparse):
        assert site.cost("bytes") == pytest.approx(4 + 8 / (height * width))
    assert sparsefx.report(sparse).budgets["bytes"].met
