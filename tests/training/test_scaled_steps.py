"""Steps that a gradient scaler skips are none, when the scaler is given."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from tests.learner_runs import X, Y
from tests.models import mlp
from tests.some_of import some_of

POLICIES = ("cost_budget", "magnitude", "rigl", "units", "svite_units")


def made(policy: str, fused: bool = False) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    options = {"total_steps": 12, "update_every": 1, "budget": {"macs": 0.6}}
    sparse = sparsefx.transform(mlp(), policy, example_inputs=(X,), **options)
    return sparse, torch.optim.SGD(sparse.parameters(), 0.1, fused=fused)


def backward(sparse: nn.Module, scale: Any, *, spoiled: bool = False) -> None:
    scale((sparse(X) - Y).square().mean()).backward()
    if spoiled:
        for weight in sparse.parameters():
            assert weight.grad is not None
            weight.grad.view(-1)[0] = torch.inf


def state_of(sparse: nn.Module) -> dict[str, Tensor]:
    return {k: v.nan_to_num() for k, v in sparse.state_dict().items()}


@pytest.mark.parametrize(  # fused ones skip by themselves
    ("policy", "fused"), some_of(itertools.product(POLICIES, [False, True]), 3)
)
def test_skipped_steps_change_nothing(policy: str, fused: bool) -> None:
    sparse, optimizer = made(policy, fused)
    other, plain = made(policy, fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)  # powers of two are exact
    spoiled = (True, False, False, True, True, False)
    for spoil in spoiled:
        backward(sparse, scaler.scale, spoiled=spoil)
        scaler.step(optimizer)
        before = state_of(sparse)
        info = sparsefx.step(sparse, optimizer, scaler)
        scaler.update()
        optimizer.zero_grad()
        if spoil:
            after = state_of(sparse)
            assert all(torch.equal(after[key], value) for key, value in before.items())
            assert info.changed == 0
            kept = sparsefx.report(sparse).budgets["macs"].kept
            assert info.hard_cost == pytest.approx(kept)
        else:
            backward(other, lambda loss: loss)
            plain.step()
            wanted = sparsefx.step(other, plain)
            plain.zero_grad()
            assert (info.step, info.budget) == (wanted.step, wanted.budget)
    for name, mask in sparsefx.masks(other).items():
        assert torch.equal(mask, sparsefx.masks(sparse)[name])
    assert sparsefx.report(sparse).step == spoiled.count(False)


def test_a_skip_may_be_the_last_word_of_frozen_masks() -> None:
    sparse, optimizer = made("cost_budget")
    for _ in range(12):
        sparsefx.step(sparse, optimizer)
    scaler = torch.amp.GradScaler("cpu")
    backward(sparse, scaler.scale, spoiled=True)
    scaler.step(optimizer)
    info = sparsefx.step(sparse, optimizer, scaler)
    assert (info.step, info.frozen) == (12, True)


def test_a_scaler_that_is_off_skips_nothing() -> None:
    sparse, optimizer = made("cost_budget")
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    backward(sparse, scaler.scale)
    scaler.step(optimizer)
    assert sparsefx.step(sparse, optimizer, scaler).step == 1


def test_a_scaler_that_knows_nothing_is_refused() -> None:
    sparse, optimizer = made("cost_budget")
    scaler = torch.amp.GradScaler("cpu")
    backward(sparse, scaler.scale)
    scaler.step(optimizer)
    scaler.update()
    before = state_of(sparse)
    with pytest.raises(sparsefx.MaskError, match=r"between scaler\.step.* and scaler"):
        sparsefx.step(sparse, optimizer, scaler)
    with pytest.raises(sparsefx.MaskError, match="optimizer NoneType; give a torch"):
        sparsefx.step(sparse, scaler=scaler)
    with pytest.raises(sparsefx.MaskError, match="scaler is a int"):
        sparsefx.step(sparse, optimizer, scaler=2)
    assert all(torch.equal(state_of(sparse)[k], v) for k, v in before.items())
