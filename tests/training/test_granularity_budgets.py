"""Every granularity under one to three budgets: the promises, on random models."""

import os
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx

EXAMPLES = int(os.environ.get("SPARSEFX_EXAMPLES", 5))  # hundreds for a long look
LAW = settings(max_examples=EXAMPLES, phases=[Phase.explicit, Phase.generate])
SIZES = st.sampled_from([4, 8, 12, 24])
LINEAR = ["unstructured", "block:2x4", "block:3x5:pad", "1:4", "2:4", "channel"]
CONV = [*LINEAR, "kernel"]


class Drawn(nn.Module):
    """Layers one after the other over (batch, features, 5 positions)."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList()
        width = 8
        for kind, size, *_ in layers:
            made = nn.Linear(width, size)
            if kind == "conv":
                made = nn.Conv1d(width, size, 3, padding=1)
            self.layers.append(made)
            width = size

    def forward(self, x):
        for layer in self.layers:
            last = isinstance(layer, nn.Linear)
            x = x.transpose(1, 2) if last else x
            x = torch.tanh(layer(x))
            x = x.transpose(1, 2) if last else x
        return x


@st.composite
def layers(draw):
    found = []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["linear", "conv"]))
        cut = draw(st.sampled_from(CONV if kind == "conv" else LINEAR))
        low = draw(st.sampled_from([0.0, 0.0, 0.1]))
        high = draw(st.sampled_from([1.0, 1.0, 0.75]))
        found.append((kind, draw(SIZES), cut, low, high))
    return found


@st.composite
def budgets(draw):
    names = draw(st.permutations(["macs", "params", "bytes"]))
    share = st.floats(0.4, 1.0)
    return {name: draw(share) for name in names[: draw(st.integers(1, 3))]}


def drawn(made, seed, values, dtype):
    torch.manual_seed(seed)
    net = Drawn(made)
    with torch.no_grad():
        for p in net.parameters():
            if values == "ties":
                p.copy_((p * 8).round() / 8)
            elif values == "zero":
                p.zero_()
            elif values == "tiny":
                p.mul_(1e-12)
    return net.to(dtype), torch.randn(2, 8, 5, dtype=dtype)


def bounded(made):
    """Settings of each layer; N:M layers keep N of M whatever their bounds."""
    return {
        f"layers.{i}": {"granularity": cut}
        | ({} if ":" in cut and "b" not in cut else
           {"min_density": low, "max_density": high})
        for i, (_, _, cut, low, high) in enumerate(made)
    }  # fmt: skip


@LAW
@given(
    layers(),
    budgets(),
    st.integers(0, 2**20),
    st.sampled_from(["plain", "ties", "zero", "tiny"]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.floats(0.5, 100.0),
)
def test_every_promise_holds(
    made: Any, budget: Any, seed: int, values: str, dtype: torch.dtype, beta: float
) -> None:
    net, x = drawn(made, seed, values, dtype)
    try:
        sparse = sparsefx.transform(
            net, example_inputs=(x,), budget=budget, layers=bounded(made), beta=beta
        )
    except sparsefx.BudgetError:  # what must be kept costs more
        return
    info = sparsefx.step(sparse)
    for limit, soft, hard in info.budgets.values():
        assert hard <= limit
        assert soft <= limit * (1 + 1e-6)
    masks = sparsefx.masks(sparse)
    for site in sparsefx.sites(sparse):
        mask, groups = masks[site.name], site.groups
        if site.granularity.kind != "n_of_m":
            step = site.unit_size / mask.numel()
            assert float(mask.float().mean()) >= site.min_density - step
            assert float(mask.float().mean()) <= site.max_density + 1e-6
        if groups is not None and site.granularity.kind != "n_of_m":
            kept = groups.values(mask.float()) > 0
            assert torch.equal(groups.expand(mask.float(), kept), mask)
        elif groups is not None and not mask.all():
            n, m = site.granularity.sizes
            rows = mask if mask.ndim == 2 else mask.movedim(1, -1)
            runs = rows.reshape(-1, m).sum(1)
            assert bool((runs == n).all())


@LAW
@given(layers(), st.floats(0.4, 1.0), st.integers(0, 2**20), st.floats(1.0, 1.6))
def test_more_budget_is_spent_but_for_what_no_whole_group_fits_into(
    made: Any, share: float, seed: int, factor: float
) -> None:
    net, x = drawn(made, seed, "plain", torch.float32)
    options = {"example_inputs": (x,), "layers": bounded(made)}
    try:
        less = sparsefx.step(sparsefx.transform(net, budget=share, **options))
    except sparsefx.BudgetError:
        return
    sparse = sparsefx.transform(net, budget=min(factor * share, 1.0), **options)
    more = sparsefx.step(sparse)
    group = max(s.unit_size * s.cost("macs") for s in sparsefx.sites(sparse))
    assert more.hard_cost > less.hard_cost - group
    assert more.soft_cost >= less.soft_cost * (1 - 2e-6)


@pytest.mark.parametrize("cut", ["channel", "2:4", "block:3x5:pad"])
def test_scaling_costs_and_budgets_changes_nothing(cut: str) -> None:
    made = [("conv", 8, cut, 0.0, 1.0), ("linear", 12, "unstructured", 0.0, 1.0)]
    found = []
    for unit in (1.0, 1024.0):
        net, x = drawn(made, 0, "plain", torch.float32)
        sparse = sparsefx.transform(
            net,
            example_inputs=(x,),
            costs={"mine": {"layers.0": unit, "layers.1": 3 * unit}},
            budget={"mine": 0.55, "params": 0.6},
            layers=bounded(made),
        )
        found.append((sparsefx.step(sparse), sparsefx.masks(sparse)))
    (one, first), (two, second) = found
    assert two.hard_cost == 1024 * one.hard_cost
    assert two.soft_cost == pytest.approx(1024 * one.soft_cost, rel=1e-6)
    assert all(torch.equal(mask, second[name]) for name, mask in first.items())
