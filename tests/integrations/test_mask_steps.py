"""The masks' step follows the optimizer, in anybody's loop."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.errors import MaskError
from sparsefx.integrations.mask_steps import MaskSteps
from tests.integrations.small_training import batches, loss, sparse_mlp


def test_it_is_step_after_each_step() -> None:
    by_hand, followed, steps = sparse_mlp("rigl"), sparse_mlp("rigl"), MaskSteps()
    for model in (by_hand, followed):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        if model is followed:
            steps.attach(model, [optimizer])
        for batch in batches(8) * 2:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
            if model is by_hand:
                report = sparsefx.step(model, optimizer=optimizer)
    assert steps.reports[""].densities == report.densities
    twins = zip(by_hand.parameters(), followed.parameters(), strict=True)
    assert all(one.equal(two) for one, two in twins)
    masks = sparsefx.masks(followed)
    assert all(mask.equal(masks[n]) for n, mask in sparsefx.masks(by_hand).items())


def test_accumulated_batches_are_one_step() -> None:
    model, steps = sparse_mlp(), MaskSteps()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    steps.attach(model, [optimizer])
    for number, batch in enumerate(batches(4), 1):
        loss(model, batch).backward()
        if number % 4 == 0:
            optimizer.step()
            optimizer.zero_grad()
    assert steps.reports[""].step == 2


@pytest.mark.parametrize("fused", [False, True])  # fused ones skip by themselves
def test_a_step_that_the_scaler_skips_is_none(fused: bool) -> None:
    model, steps = sparse_mlp(), MaskSteps()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    steps.attach(model, [optimizer])
    for spoiled in (False, True, False):
        optimizer.zero_grad()
        scaler.scale(loss(model, batches(8)[0])).backward()
        if spoiled:
            weight = next(model.parameters())
            assert weight.grad is not None
            weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
    assert steps.reports[""].step == 2


def test_the_optimizer_that_trains_the_model_counts() -> None:
    sparse, steps = sparse_mlp(), MaskSteps()
    model = nn.ModuleDict({"critic": nn.Linear(3, 3), "net": sparse})
    other = torch.optim.SGD(model["critic"].parameters(), 0.1)
    bias = torch.optim.SGD([p for p in sparse.parameters() if p.ndim == 1], 0.1)
    weights = [p for p in sparse.parameters() if p.ndim > 1]
    main = torch.optim.SGD([*weights, *model["critic"].parameters()], 0.1)
    many = torch.optim.SGD(
        [{"params": weights}, {"params": [next(iter(bias.param_groups))["params"][0]]}],
        0.1,
    )
    steps.attach(model, [other, bias, main, many])
    for optimizer in (other, bias, main):
        optimizer.step()
    assert not steps.reports
    many.step()
    assert steps.reports["net"].step == 1


def test_attaching_again_counts_once() -> None:
    model, steps = sparse_mlp(), MaskSteps()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    steps.attach(model, [optimizer])
    steps.attach(model, [optimizer])
    optimizer.step()
    assert steps.reports[""].step == 1
    steps.detach()
    optimizer.step()
    assert steps.reports[""].step == 1


def test_models_that_cannot_be_followed_are_refused() -> None:
    sparse, dense, steps = sparse_mlp(), nn.Linear(2, 2), MaskSteps()
    with pytest.raises(MaskError, match="nothing in this Linear is sparse"):
        steps.attach(dense, [torch.optim.SGD(dense.parameters())])
    for optimizers in ([], [torch.optim.SGD(dense.parameters())]):
        with pytest.raises(MaskError, match="no optimizer of the trainer holds"):
            steps.attach(sparse, optimizers)


@pytest.mark.parametrize(
    ("trainer", "package"),
    [("huggingface", "transformers"), ("lightning", "lightning.pytorch")],
)
def test_what_is_missing_is_named(trainer: str, package: str) -> None:
    """The trainers' packages are imported when first used, and named if not there."""
    code = (
        "import sys, sparsefx.integrations\n"
        f"assert {package!r} not in sys.modules\n"
        f"sys.modules[{package!r}] = None\n"
        "try:\n"
        f"    sparsefx.integrations.{trainer}\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error)\n"
        "try:\n"
        "    sparsefx.integrations.keras\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert f"needs {package.partition('.')[0]}" in run.stdout
    assert 'pip install "sparsefx[integrations]"' in run.stdout
    assert "no attribute 'keras'" in run.stdout
