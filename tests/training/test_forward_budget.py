"""Every forward pass is within the budget of its step."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsefx
from sparsefx.training.life import life_of
from tests.training.preset_starts import X, Y, net


@settings(max_examples=10, deadline=None)
@given(
    preset=st.sampled_from(["cost_budget", "spartan", "magnitude", "granet", "units"]),
    every=st.integers(1, 12),
    end=st.integers(0, 20),
    freeze=st.one_of(st.none(), st.integers(0, 20)),
    ramp=st.sampled_from(["cubic", "linear", "constant"]),
)
def test_every_forward_pass_is_within_the_budget_of_its_step(
    preset: str, every: int, end: int, freeze: int | None, ramp: str
) -> None:
    freeze = freeze if freeze is None else max(freeze, end)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = sparsefx.transform(
            net(),
            preset,
            example_inputs=(X,),
            budget={"macs": 0.5},
            total_steps=20,
            update_every=every,
            budget_ramp=ramp,
            end_step=end,
            freeze_step=freeze,
        )
        sgd = torch.optim.SGD(sparse.parameters(), 0.2, momentum=0.9)
        budget = sparsefx.report(sparse).totals["macs"].dense
        for _ in range(22):
            sgd.zero_grad()
            F.cross_entropy(sparse(X), Y).backward()
            sgd.step()
            assert cost(sparse) <= budget * (1 + 1e-9)
            info = sparsefx.step(sparse, sgd)
            budget = info.budget
            assert cost(sparse) <= info.hard_cost * (1 + 1e-9) <= budget * (1 + 1e-9)


def cost(sparse: nn.Module) -> float:
    """What the weights cost that a forward pass uses."""
    life = life_of(sparse, "report")
    if life.parts[-1].name == "units":
        return sparsefx.report(sparse).budgets["macs"].kept
    prices = {site.name: site.cost("macs") for site in life.plan.sites}
    used: dict[str, Tensor] = {f"{n}.weight": sparse[n].weight for n in (0, 2, 4)}
    return sum(prices[n] * int(w.count_nonzero()) for n, w in used.items())


@pytest.mark.parametrize("policy", ["cost_budget", "spartan", "gmp", "units"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_schedules_are_within_the_budget(policy: str, total: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = sparsefx.transform(
            net(), policy, example_inputs=(X,), total_steps=total, budget=0.5
        )
        for _ in range(total):
            F.cross_entropy(sparse(X), Y).backward()
            sparsefx.step(sparse)
    assert all(b.met for b in sparsefx.report(sparse).budgets.values())
