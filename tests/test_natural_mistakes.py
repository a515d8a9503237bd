"""What people write first: each mistake gets one sentence that says what to change."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefx

X, Y = torch.linspace(-1, 1, 32).reshape(4, 8), torch.zeros(4, 4)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def sparse(policy: Any = "cost_budget", model: Any = None, **options: Any) -> Any:
    given = {"budget": 0.5, "example_inputs": (X,), **options}
    return sparsefx.transform(net() if model is None else model, policy, **given)


def after(steps: int, **options: Any) -> Any:
    model = sparse(**options)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        sparsefx.step(model, sgd)
    return model


def lower(**options: Any) -> Any:
    return sparsefx.lower(net(), (X,), compile=False, **options)


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(net().parameters(), 0.1)


def compiled() -> nn.Module:
    """What torch.compile returns, without the seconds that importing it takes."""
    wrapper = nn.Module()
    wrapper._orig_mod = net()
    return wrapper


# What is done, and what the sentence says.
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    # names of other libraries
    "sparsity": (lambda: sparse(sparsity=0.9), "budget=0.1 where sparsity is 0.9"),
    "amount": (lambda: sparse(amount=0.9), "budget is what is kept: budget=0.1"),
    "ignored layers": (lambda: sparse(ignored_layers=["2"]), "did you mean 'exclude'"),
    "steps": (lambda: sparse(steps=9), "did you mean 'total_steps'"),
    "sparsity of a layer": (
        lambda: sparse(layers={"0": {"sparsity": 0.9}}),
        "density=0.1 where sparsity is 0.9",
    ),
    "sparsity in prune": (lambda: sparsefx.prune(net(), [X], sparsity=0.9), "budget="),
    "a misspelt field": (lambda: sparse(end_stp=0.5), "did you mean 'end_step'"),
    "a misspelt policy": (lambda: sparse("rig_l"), "did you mean 'rigl'"),
    "a misspelt cost": (lambda: sparse(budget={"mac": 0.1}), "did you mean 'macs'"),
    "Wanda by its name": (lambda: sparsefx.prune(net(), [X], method="wanda"), "activ"),
    # budgets
    "percent as a number": (lambda: sparse(budget=90), '"90%" or 0.9 for 90 percent'),
    "percent as text": (lambda: sparse(budget="10"), '"10%" or 0.1 for 10 percent'),
    "no budget": (lambda: sparse(budget=0), "give a fraction of the dense cost"),
    "a list of budgets": (lambda: sparse(budget=[0.1]), "a mapping from cost names"),
    "an unknown unit": (lambda: sparse(budget="5 MBB"), "known: MACs, FLOPs"),
    # models
    "a class": (lambda: sparse(model=nn.Linear), "give a torch.nn.Module"),
    "a state dict": (
        lambda: sparse(model=net().state_dict()),
        "give a torch.nn.Module",
    ),
    "a compiled model": (lambda: sparse(model=compiled()), "compile what sparsefx."),
    "a sparse model": (lambda: sparse(model=sparse()), "transform the original model"),
    # inputs
    "sizes as inputs": (lambda: sparse(example_inputs=8), "such as (x,)"),
    "a loader as inputs": (lambda: sparse(example_inputs=iter([X])), "such as (x,)"),
    "inputs of other sizes": (
        lambda: sparse(example_inputs=(X.T,)),
        "give example_inputs that the model accepts",
    ),
    "calibration without targets": (
        lambda: sparse("sensitivity", calibration=[X], loss=F.mse_loss),
        "pairs of input and target, [(x, y), ...]",
    ),
    "calibration without loss": (
        lambda: sparse("sensitivity", calibration=[(X, Y)]),
        "calibration is given without loss",
    ),
    "no batches": (lambda: sparsefx.prune(net(), []), "give a few batches of inputs"),
    # layers and granularities
    "a layer that is not there": (lambda: sparse(exclude=("fc",)), "available: 0, 2"),
    "a number for a layer": (lambda: sparse(layers={"0": 0.5}), "min_density"),
    "N:M the wrong way": (lambda: sparse(granularity="4:2"), "as in 2:4"),
    "a word too wide": (lambda: sparse(granularity="structured"), "allowed: unstruct"),
    "a block as a tuple": (lambda: sparse(granularity=(4, 4)), '"block:4x4"'),
    "a block that does not fit": (lambda: sparse(granularity="block:5x5"), "would do"),
    # schedules
    "steps as a float": (lambda: sparse(total_steps=1e4), "give a whole number"),
    "a freeze before the end": (
        lambda: sparse(total_steps=100, end_step=0.9, freeze_step=0.5),
        "raise freeze_step or lower end_step",
    ),
    # the order of things
    "step of a plain model": (lambda: sparsefx.step(net()), "never transformed"),
    "arguments of step swapped": (lambda: sparsefx.step(sgd(), net()), "comes first"),
    "a class of optimizers": (
        lambda: sparsefx.step(sparse(), torch.optim.SGD),
        "give the torch.optim.Optimizer that trains this model",
    ),
    "finalize of a plain model": (
        lambda: sparsefx.finalize(net()),
        "never transformed",
    ),
    "lower before finalize": (
        lambda: sparsefx.lower(sparse(), (X,)),
        "lower what sparsefx.finalize(model) returns",
    ),
    "allocate of a model": (lambda: sparsefx.allocate(net(), 0.5), "sparsefx.sites("),
    # lowering and files
    "an unknown target": (lambda: lower(target="sparce"), "known are auto"),
    "an unknown precision": (lambda: lower(precision="fp16"), "known are exact, bf16"),
    "a bound of nothing": (lambda: lower(tolerance=0.1), "give precision='bf16'"),
    "a file that is not there": (
        lambda: sparsefx.load(net(), "no.st"),
        "sparsefx.save",
    ),
    "save of a state dict": (
        lambda: sparsefx.save(net().state_dict(), "a.safetensors"),
        "give a torch.nn.Module",
    ),
    "a picture of pixels": (lambda: sparsefx.draw(sparse(), "a.png"), ".svg, .html"),
}

WARNED: dict[str, tuple[Callable[[], Any], str]] = {
    "finalize before the ramp's end": (
        lambda: sparsefx.finalize(after(1, total_steps=10)),
        "finalize at step 1: the budget reaches its target at step 5",
    ),
    "epochs for steps": (
        lambda: after(5, total_steps=2),
        "steps of the optimizer, not epochs",
    ),
    "an optimizer of the model before": (
        lambda: sparsefx.step(sparse(), sgd()),
        "make the optimizer from the parameters of what sparsefx.transform returned",
    ),
    "a schedule that never updates": (
        lambda: sparse("rigl", total_steps=50, update_every=100),
        "set update_every: 3 or less",
    ),
    "a learner without its optimizer": (
        lambda: sparsefx.step(sparse("rigl", total_steps=100)),
        "write sparsefx.step(model, optimizer=optimizer)",
    ),
    "a field of another learner": (lambda: sparse("rigl", beta=20), "is for soft_topk"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_refused_in_a_sentence(
    mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, told = REFUSED[mistake]
    with pytest.raises(sparsefx.SparsefxError) as caught:
        make()
    text = str(caught.value)
    assert told in text
    assert "\n" not in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mistake", WARNED)
def test_a_mistake_that_runs_is_told(mistake: str) -> None:
    make, told = WARNED[mistake]
    with pytest.warns(UserWarning, match=re.escape(told)):
        make()


def test_what_is_right_is_told_nothing() -> None:
    model = after(10, total_steps=10)
    sparsefx.finalize(model)
    later = after(12, total_steps=10)  # fine-tuned behind the end
    assert sparsefx.report(later).budgets["macs"].met
