"""What cannot be pruned is said in one sentence, and the model stays as it was."""

import copy

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.errors import BudgetError, CaptureError, MaskError, PolicyError
from tests.pruning import nets


class Idle(nn.Module):
    """Has a layer that only large inputs reach."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x):
        if bool((x > 1e6).any()):
            x = self.second(x)
        return self.first(x)


def bad(x):
    return [torch.full_like(x[0], float("nan")), *x[1:]]


class Root(nn.Module):
    """Has no slope where its input is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 3, bias=False)

    def forward(self, x):
        return (self.fc(x) * 0).abs().sqrt()


CASES = {
    "no gradient": (Root, nets.batches, {}, MaskError, r"by what fc\.weight makes"),
    "no batches": (nets.mlp, lambda: [], {}, MaskError, "batches is empty"),
    "another structure": (
        nets.Tokens,
        lambda: [*nets.sentences(), {"input_ids": torch.ones(2, 3)}],
        {"exclude": ["embed"]},
        MaskError,
        "batch 4 has another structure",
    ),
    "no inputs": (nets.mlp, lambda: ["text"], {}, CaptureError, "batch 0 is a str"),
    "NaN": (
        nets.mlp,
        lambda: bad(nets.batches()),
        {"held_out": 0},
        MaskError,
        "0 gets NaN or infinite inputs from batch 0",
    ),
    "a budget below the bounds": (
        nets.mlp,
        nets.batches,
        {"budget": 0.1, "min_density": 0.3},
        BudgetError,
        "budget 0.1 is below",
    ),
    "sizes that do not fit": (
        nets.mlp,
        lambda: [torch.ones(2, 5)],
        {},
        CaptureError,
        "does not run",
    ),
    "an unknown method": (
        nets.mlp,
        nets.batches,
        {"method": "wanda"},
        PolicyError,
        "method 'wanda'",
    ),
    "a setting of training": (
        nets.mlp,
        nets.batches,
        {"beta": 3.0},
        PolicyError,
        "setting of prune 'beta'",
    ),
    "no damping": (nets.mlp, nets.batches, {"damp": 0.0}, PolicyError, "damp"),
    "steps": (
        nets.mlp,
        nets.batches,
        {"distill_steps": -1},
        PolicyError,
        "distill_steps",
    ),
    "a share": (nets.mlp, nets.batches, {"held_out": 1.0}, MaskError, "held_out is 1"),
    "memory": (nets.mlp, nets.batches, {"memory": "0.5"}, PolicyError, "memory"),
    "no such mask": (nets.mlp, nets.batches, {"valid": "m"}, MaskError, "'m'"),
}


@pytest.mark.filterwarnings("ignore:.*not one graph")
def test_layers_that_never_run_are_named() -> None:
    options = {"include": ["first", "second"], "budget": {"params": 0.5}}
    with pytest.warns(
        UserWarning, match=r"rows with second\.weight .*magnitudes alone"
    ):
        pruned = sparsefx.prune(Idle(), nets.batches(), **options)
    assert pruned.report.fitted["second.weight"].error is None
    assert not pruned.masks["second.weight"].any()  # nothing is lost by that


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(case) -> None:
    make, data, options, error, text = case
    net = make()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error, match=text) as raised:
        sparsefx.prune(net, data(), **options)
    assert raised.value.args[0].count("\n") == 0 or error is BudgetError
    assert all(torch.equal(a, before[n]) for n, a in net.state_dict().items())


def test_models_that_live_sparse_are_refused() -> None:
    sparse = sparsefx.transform(nets.mlp(), example_inputs=(nets.batches()[0],))
    with pytest.raises(MaskError, match="finalize"):
        sparsefx.prune(sparse, nets.batches())
    with pytest.raises(MaskError, match="int"):
        sparsefx.prune(3, nets.batches())


def test_a_layer_that_sees_zeros_alone_is_pruned_by_magnitude() -> None:
    net = nets.mlp()
    data = [torch.zeros(4, 12)]
    pruned = sparsefx.prune(net, data, budget=0.5, allocation="uniform")
    assert pruned.model[0].weight.isfinite().all()
    assert pruned.masks["0.weight"].sum() == 96
