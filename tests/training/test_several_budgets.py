"""A model under several budgets: what binds, gradients, learners, refusals."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

import sparsefx
from sparsefx.errors import BudgetError
from tests.made_once import made_once

RTOL = 1e-6


class Net(nn.Module):
    """A convolution used at many places, and linear maps used once."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3)
        self.wide = nn.Linear(36, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.tanh(self.conv(x)).flatten(1)
        return self.head(torch.tanh(self.wide(x)))


X = torch.linspace(-1, 1, 4 * 3 * 8).reshape(4, 3, 8).sin()
BUDGETS = {"macs": 0.25, "params": 0.15}  # both bind


@made_once
def transformed(budget, **options):
    torch.manual_seed(0)
    return sparsefx.transform(Net(), budget=budget, example_inputs=(X,), **options)


@pytest.mark.parametrize("policy", ["cost_budget", "spartan", "uniform", "erk"])
@pytest.mark.parametrize(
    "budget", [BUDGETS, {"params": 0.3, "macs": "3000 MACs", "bytes": "500 B"}]
)
def test_a_model_meets_all_of_them(policy: str, budget: dict[str, Any]) -> None:
    sparse = transformed(budget, policy=policy)
    info = sparsefx.step(sparse)
    assert list(info.budgets) == list(budget)
    for limit, soft, hard in info.budgets.values():
        assert soft <= limit * (1 + RTOL)
        assert hard <= limit
    full = [soft / limit for limit, soft, _ in info.budgets.values()]
    assert max(full) == pytest.approx(1.0, rel=RTOL)
    assert (info.budget, info.soft_cost, info.hard_cost) == info.budgets[
        next(iter(budget))
    ]
    found = sparsefx.report(sparse).to_dict()
    assert all(found["budgets"][name]["met"] for name in budget)
    text = str(sparsefx.report(sparse))
    assert all(f"\n{name}: " in text for name in budget)


def test_the_report_says_which_budgets_bind() -> None:
    both = sparsefx.step(transformed(BUDGETS, keep_units=False))
    assert both.binding == ("macs", "params")
    one = sparsefx.step(transformed({"macs": 0.2, "params": 0.9}, keep_units=False))
    assert one.binding == ("macs",)
    none = sparsefx.step(transformed({"macs": 1.0, "params": 1.0}))
    assert none.binding == ()
    alone = sparsefx.step(transformed({"macs": 0.2}, keep_units=False))
    assert alone.binding == ("macs",)
    assert one.densities == alone.densities
    assert one.soft_cost == pytest.approx(alone.soft_cost, rel=2e-6)
    assert one.kept_mask_mean == pytest.approx(alone.kept_mask_mean, rel=1e-4)


@pytest.mark.parametrize("budget", [BUDGETS, {"macs": 0.2, "params": 0.9}])
def test_the_gradient_is_that_of_finite_differences(budget: dict[str, float]) -> None:
    """Of the loss with hard masks held and soft masks solved anew, in double."""
    sparse = transformed(budget, beta=3.0, keep_units=False).double()
    state = sparse.get_submodule("_sparsefx.weights")
    sparsefx.step(sparse)
    names = list(sparsefx.masks(sparse))
    weights = dict(sparse.named_parameters())
    hards = {n: m.double() for n, m in sparsefx.masks(sparse).items()}
    x = X.double()
    sparse(x).square().sum().backward()
    net = Net().double()
    slope, price = state.slope.clone(), state.price.clone()
    plan = sparse.get_submodule("_sparsefx").plan
    limits = plan.limits(plan.allowed(1.0))
    tight = [b for b, x in enumerate(state.multipliers[1].tolist()) if x]
    ratios = state.binding.clone()
    assert len(tight) == len(plan.targets) - (budget != BUDGETS)

    def masks_of(latent):
        """Soft masks that meet the binding budgets, by Newton's method."""
        shift = torch.zeros(len(tight), dtype=torch.float64)
        for _ in range(60):
            soft = {}
            for i, name in enumerate(names):
                z = (latent[name].abs() - state.center[i].detach()) * slope[i]
                move = -(shift @ ratios[tight, i])
                soft[name] = torch.sigmoid(z + state.mu[i].detach() + move)
            kept = torch.stack([soft[n].sum() for n in names])
            costs = torch.tensor([limits.costs[b] for b in tight], dtype=torch.float64)
            amounts = torch.tensor([limits.amounts[b] for b in tight]).double()
            gap = (costs @ kept) / amounts - wanted(costs, amounts)
            if float(gap.abs().max()) < 1e-15:
                break
            spread = torch.stack([(soft[n] * (1 - soft[n])).sum() for n in names])
            matrix = (costs * spread / amounts[:, None]) @ ratios[tight].T
            shift = shift + torch.linalg.solve(matrix, gap)
        return soft

    base = {n: weights[n].detach().clone() for n in names}
    memo = []

    def wanted(costs, amounts):
        if not memo:  # what the solver met: the budgets, but for its tolerance
            kept = []
            for i, name in enumerate(names):
                z = (base[name].abs() - state.center[i].detach()) * slope[i]
                kept.append(torch.sigmoid(z + state.mu[i].detach()).sum())
            memo.append((costs @ torch.stack(kept)) / amounts)
        return memo[0]

    def loss(latent):
        soft = masks_of(latent)
        seen = {n: p.detach() for n, p in weights.items()}
        for name in names:
            # straight through: the hard mask is held, dropped entries move nothing
            kept = hards[name] * soft[name] * latent[name]
            base_soft = masks_of(base)[name]
            rest = (1 - hards[name]) * (
                soft[name] * latent[name] - base_soft * base[name]
            )
            seen[name] = kept + rest
        return functional_call(net, seen, (x,)).square().sum()

    assert price.min() > 0
    generator = torch.Generator().manual_seed(1)
    for name in names:
        for index in torch.randint(base[name].numel(), (3,), generator=generator):
            values = []
            for sign in (1, -1):
                moved = {n: w.clone() for n, w in base.items()}
                moved[name].view(-1)[index] += sign * 1e-6
                values.append(float(loss(moved)))
            numeric = (values[0] - values[1]) / 2e-6
            exact = float(weights[name].grad.view(-1)[index])
            assert exact == pytest.approx(numeric, rel=2e-4, abs=2e-6)


def test_training_goes_on_bitwise_after_loading() -> None:
    def train(sparse, steps):
        for _ in range(steps):
            sparse(X).square().sum().backward()
            with torch.no_grad():
                for p in sparse.parameters():
                    p -= 0.05 * p.grad
                    p.grad = None
            sparsefx.step(sparse)

    whole = transformed(BUDGETS, total_steps=6)
    train(whole, 6)
    part = transformed(BUDGETS, total_steps=6)
    train(part, 3)
    resumed = transformed(BUDGETS, total_steps=6)
    resumed.load_state_dict(part.state_dict())
    train(resumed, 3)
    pairs = zip(whole.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("learner", ["magnitude", "rigl", "fixed", "dual_averaging"])
def test_learners_that_keep_masks_meet_all_budgets(learner: str) -> None:
    options = {"learner": learner}
    if learner in ("magnitude", "rigl"):
        options["optimizer_state"] = "keep"
    sparse = transformed(BUDGETS, budget_ramp="constant", **options)
    info = sparsefx.step(sparse)
    for limit, _, hard in info.budgets.values():
        assert hard <= limit


def test_weights_that_are_not_finite_are_named() -> None:
    sparse = transformed(BUDGETS)
    with torch.no_grad():
        dict(sparse.named_parameters())["wide.weight"][0, 0] = math.nan
    with pytest.raises(sparsefx.MaskError, match=r"NaN or Inf in wide\.weight"):
        sparsefx.step(sparse)


def test_infeasible_budgets_say_what_each_needs() -> None:
    layers = {"wide": {"min_density": 0.9}}
    with pytest.raises(BudgetError) as caught:
        transformed({"macs": 0.9, "params": 0.1}, layers=layers)
    text = str(caught.value)
    assert "budget 0.1 is below the" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert rows["macs"].endswith("yes")
    assert rows["params"].endswith("no")
    assert rows["wide"].split()[1:3] == ["0.9", "1"]
