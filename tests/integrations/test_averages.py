"""Averages of a sparse model finalize to its budget, without a word."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsefx
from tests.integrations.small_training import PRESETS, batches, loss, met, sparse_mlp
from tests.some_of import some_of

Average = tuple[nn.Module, Callable[[nn.Module], Any]]


def of_torch(model: nn.Module, buffers: bool) -> Average:
    average = AveragedModel(
        model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=buffers
    )
    return average.module, average.update_parameters


def of_timm(model: nn.Module, version: str, **more: Any) -> Average:
    timm = pytest.importorskip(
        "timm.utils.model_ema",
        reason="timm or torchvision is missing",
        exc_type=ImportError,
    )
    average = getattr(timm, version)(model, decay=0.9, **more)
    return getattr(average, "ema", None) or average.module, average.update


AVERAGES = {
    "torch": lambda model: of_torch(model, False),
    "torch with buffers": lambda model: of_torch(model, True),
    "timm 1": lambda model: of_timm(model, "ModelEma"),
    "timm 2": lambda model: of_timm(model, "ModelEmaV2"),
    "timm 3": lambda model: of_timm(model, "ModelEmaV3"),
    "timm 3, one by one": lambda model: of_timm(model, "ModelEmaV3", foreach=False),
    "timm 3, parameters": lambda model: of_timm(
        model, "ModelEmaV3", exclude_buffers=True
    ),
}


@pytest.mark.parametrize(
    ("policy", "average"), some_of(itertools.product(PRESETS, AVERAGES), 3)
)
def test_averages_meet_the_budget(policy: str, average: str) -> None:
    model = sparse_mlp(policy)
    copied, update = AVERAGES[average](model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for batch in batches(4) * 2:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
        sparsefx.step(model, optimizer=optimizer)
        update(model)
        assert copied(batch[0]).isfinite().all()
    assert met(copied)
    final = sparsefx.finalize(copied)
    x = batches(32)[0][0]
    torch.testing.assert_close(final(x), copied(x))
    assert met(model)
