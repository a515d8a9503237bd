"""What a checkpoint is loaded into: alike, plain, of other settings, or not fitting."""

import copy
import os
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sparsefx
from sparsefx.training.life import life_of
from tests import models
from tests.made_once import made_once
from tests.some_of import some_of

X = torch.linspace(-1, 1, 6 * 8).reshape(6, 8).sin()


@made_once
def fresh(policy: str = "cost_budget", **options: object) -> nn.Module:
    torch.manual_seed(0)
    given = {"budget": 0.3, "total_steps": 10, **options}
    given = {name: value for name, value in given.items() if value is not None}
    return sparsefx.transform(models.mlp(), policy, example_inputs=(X,), **given)


def train(sparse: nn.Module, steps: int) -> list[sparsefx.StepReport]:
    sgd = torch.optim.SGD(sparse.parameters(), lr=0.05)
    reports = []
    for _ in range(steps):
        sgd.zero_grad()
        sparse(X).square().mean().backward()
        sgd.step()
        reports.append(sparsefx.step(sparse, sgd))
    return reports


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.safetensors"


REFUSED = {
    "learner": (fresh, {"policy": "rigl"}, r"the learner: rigl in .* soft_topk here"),
    "granularity": (
        fresh,
        {"granularity": "block:2x4"},
        r"granularity of '0\.weight': block:2x4 in the checkpoint, unstructured here",
    ),
    "sites": (
        fresh,
        {"exclude": ("0",), "budget": 0.9},
        r"masks 1 weights, this model 2; .* 0\.weigh",
    ),
    "budgets": (
        fresh,
        {"budget": {"macs": 0.3, "params": 0.3}},
        r"budgets: macs, params in the checkpoint, macs here",
    ),
    "backward": (fresh, {"policy": "topkast"}, r"the learner: dual_averaging in"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.filterwarnings("ignore:weights that stay dense")
def test_masks_of_another_kind_are_refused(case: str, path: Path) -> None:
    make, options, message = REFUSED[case]
    sparsefx.save(make(**options), path)
    target = fresh()
    train(target, 3)
    before, twin = state_of(target), copy.deepcopy(target)
    with pytest.raises(sparsefx.MaskError, match=message):
        sparsefx.load(target, path)
    assert_same(state_of(target), before)
    assert repr(train(target, 3)) == repr(train(twin, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.6}, r"budget: 0\.6 in the checkpoint, 0\.3 here"),
        ({"cost": "bytes"}, r"cost: bytes in the checkpoint"),
        ({"total_steps": 20}, r"total_steps: 20 in the checkpoint, 10 here"),
        ({"beta": 20}, r"beta: 20\.0 in the checkpoint, 10\.0 here"),
    ],
)
@pytest.mark.parametrize("policy", some_of(["cost_budget", "magnitude"], 2))
def test_other_settings_are_told(
    policy: str, options: dict[str, object], message: str, path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # beta is nothing to a magnitude
        sparse = fresh(policy, **options)
        train(sparse, 7)
    sparsefx.save(sparse, path)
    target = fresh(policy)
    with pytest.warns(UserWarning, match=message):
        assert sparsefx.load(target, path) is target
    life = life_of(target, "step")
    assert life.step == 7
    assert life.within()
    weights = dict(sparse.named_parameters())
    if policy == "cost_budget":
        assert all(p.equal(weights[name]) for name, p in target.named_parameters())
    train(target, 1)
    assert life.within()


def test_masks_that_cost_too_much_are_found_anew(path: Path) -> None:
    sparse = fresh(budget=0.6)
    train(sparse, 9)
    sparsefx.save(sparse, path)
    target = fresh()
    with pytest.warns(UserWarning, match=r"did not meet: found anew"):
        sparsefx.load(target, path)
    assert sparsefx.report(target).budgets["macs"].met
    train(target, 1)
    assert sparsefx.report(target).frozen


def test_equal_settings_are_not_told(path: Path) -> None:
    sparse = fresh()
    sparsefx.save(sparse, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsefx.load(fresh(name="another"), path)


PLAIN = {
    "soft": ("cost_budget", {}),
    "blocks": ("spartan_block", {"granularity": "block:2x4"}),
    "rigl": ("rigl", {}),
    "budgets": ("cost_budget", {"budget": {"macs": 0.3, "params": 0.4}}),
    "units": ("units", {"budget": 0.6}),
    "mixed": ("spartan", {"budget": {"macs": 0.3}, "unit_density": 0.6}),
    "wide": ("sparse_wide", {"budget": None, "density": 0.5}),
}


@pytest.mark.parametrize("case", some_of(PLAIN, 2))
@pytest.mark.filterwarnings("ignore:the learner")
def test_a_plain_model_is_transformed_as_the_file_says(case: str, path: Path) -> None:
    policy, options = PLAIN[case]
    sparse = fresh(policy, **options)
    train(sparse, 4)
    sparsefx.save(sparse, path)
    torch.manual_seed(1)
    loaded = sparsefx.load(models.mlp(), path)
    assert_same(state_of(loaded), state_of(sparse))
    assert torch.equal(loaded(X), sparse(X))
    assert repr(train(loaded, 3)) == repr(train(sparse, 3))
    assert_same(state_of(loaded), state_of(sparse))


def test_keyword_inputs_and_a_list_of_calls(path: Path) -> None:
    torch.manual_seed(0)
    sparse = sparsefx.transform(
        models.mlp(), budget=0.3, example_inputs=[{"input": X}, {"input": X[:3]}]
    )
    sparsefx.save(sparse, path)
    assert torch.equal(sparsefx.load(models.mlp(), path)(X), sparse(X))


def test_a_plain_model_of_another_shape_is_as_it_was(path: Path) -> None:
    sparsefx.save(fresh("rigl"), path)
    plain = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 4))
    before, classes = state_of(plain), [type(m) for m in plain.modules()]
    with pytest.raises(sparsefx.MaskError, match=r"size mismatch for 0\.weight"):
        sparsefx.load(plain, path)
    assert_same(state_of(plain), before)
    assert [type(m) for m in plain.modules()] == classes


def own_policy(sites, budget):  # type: ignore[no-untyped-def]
    return sparsefx.allocate(sites, f"{budget} MACs")


def test_what_a_file_cannot_hold_is_refused(path: Path) -> None:
    sparse = fresh(own_policy)  # type: ignore[arg-type]
    train(sparse, 2)
    sparsefx.save(sparse, path)
    with pytest.raises(sparsefx.MaskError, match=r"allocation was the .* own_policy"):
        sparsefx.load(models.mlp(), path)
    again = sparsefx.load(fresh(own_policy), path)  # type: ignore[arg-type]
    assert_same(state_of(again), state_of(sparse))

    class Batch:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, batch: Batch) -> Tensor:
            return self.fc(batch.x)

    with pytest.warns(UserWarning, match="not one graph"):
        made = sparsefx.transform(Net(), budget=0.3, example_inputs=(Batch(X),))
    sparsefx.save(made, path)
    with pytest.raises(sparsefx.MaskError, match=r"inputs held a .*Batch"):
        sparsefx.load(Net(), path)


def test_a_wrapped_plain_model_is_refused(path: Path) -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    sparsefx.save(fresh(), path)
    with pytest.raises(sparsefx.MaskError, match=r"wraps a plain one; load into"):
        sparsefx.load(Wrapper(models.mlp()), path)
    sparsefx.load(Wrapper(fresh()), path)


def test_weights_that_masks_cannot_rank_are_refused(path: Path) -> None:
    plain = models.mlp()
    plain[0].weight.data[0, 0] = torch.nan
    sparsefx.save(plain, path)
    target = fresh()
    before = state_of(target)
    with pytest.raises(sparsefx.MaskError, match=r"'0\.weight' .* NaN or infinite"):
        sparsefx.load(target, path)
    assert_same(state_of(target), before)
    assert sparsefx.load(models.mlp(), path)[0].weight[0, 0].isnan()


def test_garbage_is_refused_in_a_sentence(tmp_path: Path, path: Path) -> None:
    sparsefx.save(fresh(), path)
    whole = path.read_bytes()
    (tmp_path / "short").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "random").write_bytes(os.urandom(5000))
    save_file({"0.weight": torch.ones(16, 8)}, tmp_path / "other")
    torch.save(models.mlp().state_dict(), tmp_path / "pickle")
    for make in (models.mlp, fresh):
        for name in ("short", "random", "other", "pickle", "missing", "."):
            with pytest.raises(sparsefx.MaskError) as refused:
                sparsefx.load(make(), tmp_path / name)
            assert "\n" not in str(refused.value)
            assert len(str(refused.value)) < 300
