"""Short lives of all presets on two models, each made once and copied."""

import copy
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx
from tests.trajectory_cases import Case, batch, cases, made

STEPS, EVERY = 8, 1
CASES = {
    case.name: case
    for case in cases()
    if case.policy in sparsefx.policies()
    and case.name == f"{case.model}: {case.policy}"
    # a network without tokens
    and case.name not in ("conv: svite_joint", "conv: svite_tokens")
}
X = batch(0)[0]


@functools.cache
def _made(name: str) -> nn.Module:
    case = CASES[name]
    settings = {"total_steps": STEPS, "update_every": EVERY, **case.options}
    if case.calibrated:
        settings |= {"calibration": [batch(-1)], "loss": F.cross_entropy}
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sparsefx.transform(
            made(case.model), case.policy, example_inputs=(X,), **settings
        )


def sparse_of(name: str) -> nn.Module:
    """The transformed model of a case, for the caller alone."""
    return copy.deepcopy(_made(name))


def case_of(name: str) -> Case:
    return CASES[name]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: range
) -> Iterator[Any]:
    """A report a step; chance, as in dropout, is that of the step."""
    for index in steps:
        torch.manual_seed(index)
        x, y = batch(index)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of optimizers that have no effect
            yield sparsefx.step(model, optimizer)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
