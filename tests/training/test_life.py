"""One life for weights, units and tokens: laws that hold whatever is sparse."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx
from sparsefx.training.history import as_curve, from_curve, longer
from tests.some_of import some_of
from tests.unit_networks import awake, images, vit

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "soft": ("cost_budget", {"budget": 0.3}),
    "several": ("cost_budget", {"budget": {"macs": 0.3, "params": 0.3}}),
    "rigl": ("rigl", {"budget": 0.3}),
    "magnitude": ("magnitude", {"budget": 0.3}),
    "blocks": (
        "cost_budget",
        {"budget": 0.3, "granularity": "block:4x4", "exclude": ("head",)},
    ),
    "units": ("units", {"budget": 0.6}),
    "soft units": ("units", {"budget": 0.6, "learner": "units_soft_topk"}),
    "taylor": ("svite_units", {"budget": 0.6}),
    "mixed": ("spartan", {"budget": {"macs": 0.3}, "unit_density": 0.6}),
    "tokens": ("svite_tokens", {"budget": 0.8}),
    "tokens and weights": ("svite_joint", {"budget": 0.5}),
}
X, Y = images(8), torch.arange(8) % 3


def made(kind: str, **options: Any) -> nn.Module:
    policy, settings = KINDS[kind]
    given = {"total_steps": 10, "update_every": 2, **settings, **options}
    return sparsefx.transform(awake(vit()), policy, example_inputs=(X,), **given)


@pytest.fixture(scope="module", params=some_of(KINDS, 2))
def fresh(request: pytest.FixtureRequest) -> nn.Module:
    return made(request.param)


@pytest.fixture
def sparse(fresh: nn.Module) -> nn.Module:
    return copy.deepcopy(fresh)


def train(model: nn.Module, steps: int, seed: int = 0) -> list[sparsefx.StepReport]:
    torch.manual_seed(seed)
    sgd = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
    found = []
    for _ in range(steps):
        sgd.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        sgd.step()
        found.append(sparsefx.step(model, sgd))
    return found


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(
        (a == b and v.equal(w)) or bool((v != v).any()) for (a, v), (b, w) in pairs
    )


def test_every_step_is_within_its_budget(sparse: nn.Module) -> None:
    for info in train(sparse, 10):
        for limit, soft, hard in info.budgets.values():
            assert hard <= limit * (1 + 1e-12)
            if info.step % 2 == 0:  # soft masks drift between updates
                assert soft <= limit * (1 + 1e-6)
    report = sparsefx.report(sparse)
    assert all(budget.met for budget in report.budgets.values())
    assert [point.step for point in report.history] == list(range(1, 11))


def test_a_model_is_transformed_once(sparse: nn.Module) -> None:
    for policy in ("units", "cost_budget", "svite_tokens"):
        with pytest.raises(sparsefx.MaskError, match="already transformed"):
            sparsefx.transform(sparse, policy, example_inputs=(X,))


def test_sites_are_those_of_the_masks(sparse: nn.Module) -> None:
    masks, sites = sparsefx.masks(sparse), sparsefx.sites(sparse)
    assert {site.name: site.shape for site in sites} == {
        name: tuple(mask.shape) for name, mask in masks.items()
    }


def test_a_dense_checkpoint_is_taken(sparse: nn.Module) -> None:
    train(sparse, 6)
    state = {k: v for k, v in sparse.state_dict().items() if "_sparsefx" not in k}
    twin = copy.deepcopy(sparse)
    twin.load_state_dict(state)
    assert all(budget.met for budget in sparsefx.report(twin).budgets.values())


def test_a_checkpoint_goes_on_and_keeps_its_history(sparse: nn.Module) -> None:
    train(sparse, 4)
    twin = copy.deepcopy(sparse)
    train(twin, 1, seed=5)
    twin.load_state_dict(sparse.state_dict())
    assert same(sparse, twin)
    one, other = train(sparse, 3), train(twin, 3)
    assert [r.hard_cost for r in one] == [r.hard_cost for r in other]
    assert sparsefx.report(sparse).history == sparsefx.report(twin).history


def test_state_dicts_hold_tensors_only(sparse: nn.Module) -> None:
    train(sparse, 1)
    assert all(isinstance(value, Tensor) for value in sparse.state_dict().values())


def test_history_stays_short(sparse: nn.Module) -> None:
    (report,) = train(sparse, 1)
    history = longer([], None)
    for number in range(1, 1301):
        history = longer(history, replace(report, step=number))
    assert len(history) <= 500
    assert (history[0].step, history[-1].step) == (1, 1300)
    assert from_curve(as_curve(history)) == history


def test_an_average_stands_still_with_its_model() -> None:
    """A copy made before the freeze and written by others computes what it does."""
    model = sparsefx.transform(
        awake(vit()), "cost_budget", example_inputs=(X,), budget=0.3, total_steps=4
    )
    average = copy.deepcopy(model)
    train(model, 4)
    with torch.no_grad():
        for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
    torch.testing.assert_close(average(X), sparsefx.finalize(average)(X))
    torch.testing.assert_close(average(X), model(X))
