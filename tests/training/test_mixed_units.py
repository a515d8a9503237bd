"""Units and the weights inside them at once, under one budget."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefx
from sparsefx.errors import MaskError, PolicyError
from sparsefx.masking.state_keys import CHILD
from sparsefx.passes import ShrinkUnits
from tests.unit_networks import awake, images, vit

STEPS = 6


@pytest.fixture(scope="module")
def made() -> nn.Module:
    torch.manual_seed(0)
    return sparsefx.transform(
        awake(vit()),
        "spartan",
        example_inputs=(images(4),),
        budget={"macs": 0.3},
        unit_density=0.6,
        total_steps=STEPS,
        freeze_step=5,
    )


@pytest.fixture
def mixed(made: nn.Module) -> nn.Module:
    return copy.deepcopy(made)


def train(model: nn.Module, steps: int) -> None:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    for _ in range(steps):
        model(images(4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        info = sparsefx.step(model)
        assert info.hard_cost <= info.budget * (1 + 1e-9)


def units_of(model: nn.Module) -> nn.Module:
    return model.get_submodule(f"{CHILD}.weights.units")


def test_closed_units_cost_nothing_and_open_ones_take_the_budget(mixed: Any) -> None:
    train(mixed, 4)
    units, masks = units_of(mixed), sparsefx.masks(mixed)
    gates = {name: units[name] for name in units.names}
    assert sum(int((g == 0).sum()) for g in gates.values()) > 0
    closed = gates["blocks.0.mlp.fc2.neurons"] == 0
    assert not masks["blocks.0.mlp.fc1.weight"][closed].any()
    assert not masks["blocks.0.mlp.fc2.weight"][:, closed].any()
    report = sparsefx.report(mixed)
    budget = report.budgets["macs"]
    assert 0.9 * budget.limit < budget.kept <= budget.limit
    rows = {row.name: row.density for row in report.layers if row.granularity == "unit"}
    assert rows == {n: int((g != 0).sum()) / len(g) for n, g in gates.items()}
    inside = masks["blocks.0.mlp.fc1.weight"][~closed].float().mean()
    assert 0 < inside < 1


def test_weights_under_a_closed_gate_stay_and_have_no_gradient(mixed: Any) -> None:
    train(mixed, 4)
    closed = units_of(mixed)["blocks.0.mlp.fc2.neurons"] == 0
    raw = dict(mixed.named_parameters())["blocks.0.mlp.fc1.weight"]
    assert bool(closed.any())
    assert bool((raw[closed] != 0).all())
    mixed(images(4)).square().sum().backward()
    assert not raw.grad[closed].any()
    assert raw.grad[~closed].any()


def test_graph_and_python_agree(mixed: Any) -> None:
    train(mixed, 4)
    x = images(4)
    done, graph = mixed.__dict__["_sparsefx_program"].run(mixed, (x,), {})
    assert done
    python = type(mixed)._sparsefx_original.forward(mixed, x)
    torch.testing.assert_close(graph, python, rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_the_masked_loss() -> None:
    """Autograd through dense masks of what is open, and implicit differentiation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(8, 4, dtype=torch.float64)
    options = {"budget": {"macs": 0.5}, "unit_density": 0.7, "keep_units": False}
    sparse = sparsefx.transform(net, "spartan", example_inputs=(x,), **options)
    sparse(x).square().sum().backward()
    state = sparse.get_submodule(f"{CHILD}.weights")
    assert bool((state.units["2.neurons"] == 0).any())
    latent = {
        name: p.detach().clone().requires_grad_()
        for name, p in sparse.named_parameters()
    }
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    seen, cost = dict(latent), torch.zeros((), dtype=torch.float64)
    for i, (name, hard) in enumerate(sparsefx.masks(sparse).items()):
        w = state.units.opened(latent[name], i)
        z = (w.abs() - state.center[i]) * state.slope[i]
        m = torch.sigmoid(z + state.mu[i].detach() + shift)
        seen[name] = m * w + (hard * m * w - m * w).detach()
        cost = cost + state.price[i] * m.sum()
    h = torch.tanh(F.linear(x, seen["0.weight"], seen["0.bias"]))
    loss = F.linear(h, seen["2.weight"], seen["2.bias"]).square().sum()
    for name, p in sparse.named_parameters():
        direct, pull = torch.autograd.grad(
            loss, (latent[name], shift), retain_graph=True
        )
        if p.ndim == 2:
            moved, rate = torch.autograd.grad(
                cost, (latent[name], shift), retain_graph=True
            )
            direct = direct - moved * pull / rate
        torch.testing.assert_close(p.grad, direct, rtol=1e-6, atol=1e-8)


def test_finalized_models_are_cut_and_sparse_inside(mixed: Any) -> None:
    train(mixed, STEPS)
    x, report = images(4), sparsefx.report(mixed)
    dense = sparsefx.finalize(mixed)
    torch.testing.assert_close(dense(x), mixed(x), rtol=1e-5, atol=1e-6)
    small = ShrinkUnits()(sparsefx.capture(dense, (x,)).graphs[""])
    torch.testing.assert_close(small(x), dense(x), rtol=1e-5, atol=1e-6)
    weight = small.get_parameter("blocks.0.mlp.fc1.weight")
    assert weight.shape[0] < 24
    kept = {row.name: row.density for row in report.layers}
    share = kept["blocks.0.mlp.fc1.weight"]
    assert int(weight.count_nonzero()) <= round(share * 24 * 16)


def test_checkpoints_hold_the_gates(mixed: Any, made: Any, tmp_path: Path) -> None:
    train(mixed, 3)
    sparsefx.save(mixed, tmp_path / "mixed.safetensors")
    twin = sparsefx.load(copy.deepcopy(made), tmp_path / "mixed.safetensors")
    train(mixed, 2)
    train(twin, 2)
    assert torch.equal(twin(images(4)), mixed(images(4)))


def test_other_learners_and_models_are_refused() -> None:
    with pytest.raises(PolicyError, match="soft_topk"):
        sparsefx.Policy(learner="magnitude", unit_density=0.5)
    with pytest.raises(PolicyError, match="unit_density"):
        sparsefx.Policy(unit_density=0.0)
    net = nn.Linear(4, 4)
    with pytest.raises(MaskError, match="no units behind which"):
        sparsefx.transform(net, unit_density=0.5, example_inputs=(torch.ones(2, 4),))
