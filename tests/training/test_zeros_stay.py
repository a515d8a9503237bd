"""``masks="nonzero"``: zeros that a model came with are never kept, by any learner."""

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsefx
from tests.models import mlp

X = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(12) % 4
TOTAL = 8
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "cost_budget": {},
    "spartan": {"budget": {"macs": 0.2, "params": 0.2}},
    "uniform": {},
    "magnitude": {"dropped": "hold"},
    "gmp": {},
    "topkast": {"backward_density": 0.3},
    "fixed": {},
    "set": {},
    "rigl": {"granularity": "channel"},
    "granet": {},
    "spartan_block": {"granularity": "block:4x4"},
    "nm_2_4": {"budget": 0.6},
}


def with_zeros(share: float = 0.6, seed: int = 0, empty: bool = False) -> nn.Module:
    """A small network with random zeros; its first weight may have nothing else."""
    torch.manual_seed(seed)
    net = mlp()
    with torch.no_grad():
        for weight in zeros_of(net, every=True).values():
            weight.masked_fill_(torch.rand_like(weight) < share, 0.0)
        if empty:
            net.get_parameter("0.weight").zero_()
    return net


def zeros_of(net: nn.Module, *, every: bool = False) -> dict[str, Tensor]:
    named = [(n, p.detach()) for n, p in net.named_parameters() if p.ndim > 1]
    return {name: weight if every else weight == 0 for name, weight in named}


def sparse_of(net: nn.Module, preset: str = "cost_budget", **more: Any) -> nn.Module:
    options = {"total_steps": TOTAL, "update_every": 1, "masks": "nonzero", **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # layers without weights
        return sparsefx.transform(net, preset, example_inputs=(X,), **options)


def train(model: nn.Module, optimizer: Any, steps: int = 1) -> Any:
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        info = sparsefx.step(model, optimizer)
    return info


def assert_zero(model: nn.Module, zeros: Mapping[str, Tensor]) -> None:
    masks = sparsefx.masks(model)
    dense = sparsefx.finalize(copy.deepcopy(model))
    for name, zero in zeros.items():
        assert not (masks[name] & zero).any(), name
        assert not dense.get_parameter(name)[zero].any(), name
    with torch.no_grad():
        torch.testing.assert_close(model(X), dense(X))


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.sampled_from(list(PRESETS)),
    st.integers(0, 99),
    st.floats(0.3, 0.95),
    st.booleans(),
    st.lists(st.sampled_from(["train", "edit", "copy", "reload", "cast"]), max_size=6),
)
def test_zeros_stay_whatever_is_done(
    preset: str, seed: int, share: float, empty: bool, acts: list[str]
) -> None:
    net = with_zeros(share, seed, empty)
    zeros = zeros_of(net)
    model = sparse_of(net, preset, **{"budget": 0.2, **PRESETS[preset]})
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    for act in acts:
        if act == "train":
            info = train(model, optimizer)
            assert info.hard_cost <= info.budget * (1 + 1e-9)
        elif act == "edit":
            with torch.no_grad():
                for weight in zeros_of(model, every=True).values():
                    weight.add_(torch.rand_like(weight))
        elif act == "copy":
            model = copy.deepcopy(model)
            optimizer = torch.optim.AdamW(model.parameters(), 0.05)
        elif act == "reload":
            model.load_state_dict(copy.deepcopy(model.state_dict()))
        else:
            model.double().float()
        assert_zero(model, zeros)
    F.cross_entropy(model(X), Y).backward()
    for name, zero in zeros.items():
        grad = model.get_parameter(name).grad
        assert grad is None or not grad[zero].any(), name


@pytest.mark.parametrize("preset", ["cost_budget", "gmp", "rigl", "fixed"])
def test_without_a_budget_nothing_more_is_dropped(preset: str) -> None:
    net = with_zeros()
    zeros = zeros_of(net)
    model = sparse_of(net, preset)
    info = train(model, torch.optim.SGD(model.parameters(), 0.1), 3)
    assert info.binding == ()
    for name, mask in sparsefx.masks(model).items():
        assert torch.equal(mask, ~zeros[name])


@pytest.mark.parametrize("preset", ["magnitude", "spartan"])
def test_masks_are_the_largest_of_what_is_not_zero(preset: str) -> None:
    net = with_zeros()
    weights = list(zeros_of(net, every=True).values())
    left = [weight != 0 for weight in weights]
    options = {"budget": 0.1, "normalize": "none", "keep_units": False}
    model = sparse_of(copy.deepcopy(net), preset, **options)
    while sparsefx.step(model).step < TOTAL - 3:
        pass
    pairs = zip(weights, left, strict=True)
    values = torch.cat([weight[there].abs().double() for weight, there in pairs])
    limit = 0.1 * sum(map(Tensor.numel, weights))
    wanted = sparsefx.hard_topk(values, torch.ones_like(values), limit)
    pairs = zip(sparsefx.masks(model).values(), left, strict=True)
    assert torch.equal(torch.cat([mask[there] for mask, there in pairs]), wanted)


def test_learners_of_your_own_see_what_may_be_kept() -> None:
    seen = []

    def decide(situation: Any) -> Any:
        seen.append([len(value) for value in situation.values])
        return sparsefx.learners.Decision(situation.masks)

    own = sparsefx.learners.Learner(name="own", decide=decide)
    net = with_zeros()
    model = sparse_of(net, learner=own, budget=0.2)
    sparsefx.step(model)
    assert seen == [[int((~zero).sum()) for zero in zeros_of(net).values()]]


def test_a_file_brings_its_zeros_along(tmp_path: Path) -> None:
    net = with_zeros()
    zeros, path = zeros_of(net), tmp_path / "model.safetensors"
    model = sparse_of(net, "granet", budget=0.3)
    train(model, torch.optim.SGD(model.parameters(), 0.1), 3)
    sparsefx.save(model, path)
    torch.manual_seed(9)
    loaded = sparsefx.load(mlp(), path)  # which has other weights, and no zero
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    train(loaded, torch.optim.SGD(loaded.parameters(), 0.1), 3)
    assert_zero(loaded, zeros)
    free = sparsefx.transform(
        mlp(), "granet", example_inputs=(X,), total_steps=TOTAL, update_every=1
    )
    with pytest.raises(
        sparsefx.MaskError, match=r"the masks: nonzero in .* learner here"
    ):
        sparsefx.load(free, path)


def test_a_dense_checkpoint_changes_no_zero() -> None:
    net = with_zeros()
    zeros = zeros_of(net)
    model = sparse_of(net, budget=0.3)
    torch.manual_seed(9)
    model.load_state_dict(mlp().state_dict())
    assert_zero(model, zeros)


def test_a_policy_keeps_its_own_budget() -> None:
    policy = sparsefx.Policy(learner="magnitude", budget=0.05, masks="nonzero")
    model = sparsefx.transform(with_zeros(), policy, example_inputs=(X,))
    report = sparsefx.report(model)
    assert report.budgets["macs"].limit == pytest.approx(
        0.05 * report.totals["macs"].dense
    )


@pytest.mark.parametrize("preset", ["units", "svite_units", "sparse_wide"])
def test_what_has_no_zeros_to_keep_is_refused(preset: str) -> None:
    net = with_zeros()
    with pytest.raises(sparsefx.PolicyError, match="keeps weights zero that are, but"):
        sparsefx.transform(
            net, preset, example_inputs=(X,), masks="nonzero", inplace=True
        )
    assert type(net[0]) is nn.Linear
    with pytest.raises(sparsefx.PolicyError, match="masks is 'zero'; allowed: learner"):
        sparsefx.transform(net, masks="zero")
