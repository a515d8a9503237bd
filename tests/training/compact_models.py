"""Small models that train under masks, or on kept weights alone."""

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx

X = torch.randn(24, 13, generator=torch.Generator().manual_seed(1))
Y = torch.arange(24) % 5
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2),
}
LEARNERS: dict[str, dict[str, Any]] = {
    "rigl": {},
    "set": {},
    "granet": {},
    "fixed": {},
    "magnitude": {"dropped": "zero"},
    "rigl regrowing": {"regrow_dropped": True, "growth_random": 0.3},
    "rigl blocks": {"granularity": "block:2x2:pad"},
}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(13, 30), nn.ReLU(), nn.Linear(30, 17), nn.ReLU(), nn.Linear(17, 5)
    )


def made(
    execution: str = "sparse",
    case: str = "rigl",
    dtype: torch.dtype = torch.float64,
    model: nn.Module | None = None,
) -> nn.Module:
    """A transformed model; under masks a copy of one that is made once."""
    if execution == "masked" and model is None:
        return copy.deepcopy(_masked(case, dtype))
    return _made(execution, case, (model or net()).to(dtype))


@functools.cache
def _masked(case: str, dtype: torch.dtype) -> nn.Module:
    return _made("masked", case, net().to(dtype))


def _made(execution: str, case: str, model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sparsefx.transform(
            model,
            case.split()[0],
            example_inputs=(X.to(next(model.parameters()).dtype),),
            budget={"params": 0.3},
            execution=execution,
            **{"update_every": 2, "total_steps": 20, **LEARNERS[case]},
        )


def trained(
    sparse: nn.Module, optimizer: torch.optim.Optimizer, steps: int, parts: int = 1
) -> list[float]:
    """Losses and reports; each step's gradients are those of so many passes."""
    dtype, seen = next(sparse.parameters()).dtype, []
    for i in range(steps):
        for part in range(parts):
            some = slice(i % 3 + part, None, 2)
            loss = F.cross_entropy(sparse(X[some].to(dtype)), Y[some])
            loss.backward()
            seen.append(loss.item())
        optimizer.step()
        info = sparsefx.step(sparse, optimizer)
        optimizer.zero_grad()
        seen += [info.hard_cost, info.changed, *info.densities.values()]
    return seen


def tensors(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {k: v for k, v in state.items() if not k.endswith("weights.compact")}


def assert_same(one: nn.Module, other: nn.Module, tolerance: float = 1e-10) -> None:
    there, here = tensors(one), tensors(other)
    assert there.keys() == here.keys()
    for key, value in there.items():
        same = torch.allclose(value, here[key], 0, tolerance, equal_nan=True)
        assert same, key
