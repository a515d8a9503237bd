"""A small sparse model and its data, for trainers that bring their own loop."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsefx

STEPS = 8  # of the schedule
PRESETS = ("cost_budget", "spartan", "rigl", "topkast")


def data(count: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 12, generator=generator)
    return x, torch.randint(0, 5, (count,), generator=generator)


def sparse_mlp(policy: str = "cost_budget", **more: Any) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 5))
    given = {"budget": {"params": 0.3}, "total_steps": STEPS, **more}
    return sparsefx.transform(
        net, policy, example_inputs=(torch.zeros(2, 12),), **given
    )


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(size: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(*(part.split(size) for part in data()), strict=True))


def state(model: nn.Module) -> dict[str, Any]:
    """All that a checkpoint holds, copied."""
    return {key: value.clone() for key, value in model.state_dict().items()}


def differing(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The keys under which two states differ in a bit (NaN is NaN)."""
    assert one.keys() == two.keys()
    return [
        key
        for key in one
        if not torch.equal(one[key].nan_to_num(9e9), two[key].nan_to_num(9e9))
    ]


def kept(model: nn.Module) -> int:
    """What finalize leaves of the masked weights, which is what report says."""
    final = sparsefx.finalize(copy.deepcopy(model))
    names = sparsefx.masks(model)
    found = sum(int(final.get_parameter(name).count_nonzero()) for name in names)
    said = sparsefx.report(model).to_dict()["budgets"]["params"]
    assert found <= said["kept"]
    return found


def met(model: nn.Module) -> bool:
    """Whether what finalize gives is within the budget, as report says."""
    said = sparsefx.report(model).to_dict()["budgets"]["params"]
    return bool(said["met"]) and kept(model) <= said["limit"]
