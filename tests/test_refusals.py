"""What stays dense is named and what cannot be is refused, the model untouched."""

import math
import pickle
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import sparsefx
from tests import models
from tests.small_runs import X, sparse_of

# -- what stays dense is named ---------------------------------------------------------


def orthogonal():
    """A weight that is multiplied as a function of itself in which no zero stays."""
    return nn.Sequential(parametrizations.orthogonal(nn.Linear(8, 8)), nn.Linear(8, 2))


def test_weights_that_stay_dense_are_named() -> None:
    name = "0.parametrizations.weight.original"
    with pytest.warns(UserWarning, match=rf"1 weights stay dense: {name}"):
        sparse = sparse_of(orthogonal(), budget=0.5)
    coverage = sparsefx.report(sparse).to_dict()["coverage"]
    rows = {row["parameter"]: row for row in coverage}
    assert rows[name]["masked"] is None
    assert rows[name]["reason"]
    with pytest.raises(sparsefx.MaskError, match=rf"{name}.*strict=True"):
        sparse_of(orthogonal(), budget=0.5, strict=True)
    assert sparse_of(budget=0.5, strict=True) is not None


def test_what_is_not_one_graph_is_said() -> None:
    with pytest.warns(UserWarning, match=r"not one graph .*graphs cover a.*masked"):
        sparse = sparse_of(models.DataDependent(), (X[:, :6],), budget=0.5)
    coverage = sparsefx.report(sparse).to_dict()["coverage"]
    kinds = {row["parameter"]: row["masked"] for row in coverage}
    assert kinds["a.weight"] == "graph"
    assert set(sparsefx.graphs(sparse)) >= {"a"}
    for sign in (1, -1):  # both branches run, masked
        assert sparse(sign * X[:, :6].abs()).isfinite().all()
    assert not hasattr(sparse, "code")


def test_parametrized_weights_are_masked() -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.Linear(8, 2))
    sparse = sparse_of(net, budget=0.5)
    name = "0.parametrizations.weight.original1"
    assert set(sparsefx.masks(sparse)) == {name, "1.weight"}
    dropped = ~sparsefx.masks(sparse)[name]
    assert not sparse[0].weight[dropped].any()


def test_a_budget_above_dense_is_said() -> None:
    with pytest.warns(UserWarning, match=r"above what the dense model costs"):
        sparse = sparse_of(budget={"macs": "1 GMACs"})
    assert all(bool(m.all()) for m in sparsefx.masks(sparse).values())


# -- refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": 0}, "BudgetError", r"budget 0 is not positive; give a fraction"),
        ({"budget": -0.5}, "BudgetError", r"budget -0\.5 is not positive"),
        ({"budget": 1.5}, "BudgetError", r"budget 1\.5 is above 1; a number is a frac"),
        (
            {"budget": "abc"},
            "BudgetError",
            r"budget 'abc' is not understood; give a fr",
        ),
        (
            {"budget": 0.1, "exclude": ("0",)},
            "BudgetError",
            r"budget 0\.1 is below the 0\.6667 that layers kept dense already cost \(0",
        ),
        (
            {"budget": 0.1, "min_density": 0.5},
            "BudgetError",
            r"budget 0\.1 is below the 0\.5 .*raise budget to between 0\.5 and 1",
        ),
        (
            {"include": ("0",), "exclude": ("0",)},
            "PolicyError",
            r"include and exclude leave no weight to mask",
        ),
        ({"exclude": ("hed",)}, "PolicyError", r"'hed' matches no"),
        ({"policy": "cost_bugdet"}, "PolicyError", r"did you mean 'cost_budget'\?"),
        ({"bugdet": 0.1}, "PolicyError", r"'bugdet'.*did you mean 'budget'"),
        (
            {"inputs": (torch.zeros(4, 9),)},
            "CaptureError",
            r"Sequential does not run on the example inputs \(shapes \[\(4, 9\)\]\)",
        ),
        ({"inputs": 3}, "CaptureError", r"example_inputs is a int; give a tuple"),
    ],
)
def test_refused(options: dict[str, Any], error: str, message: str) -> None:
    net = models.mlp()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(getattr(sparsefx, error), match=message) as caught:
        sparse_of(net, inplace=True, **options)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, sparsefx.SparsefxError)
    assert type(net) is nn.Sequential
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("policy", ["cost_budget", "uniform"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite(bad: float, policy: str) -> None:
    net = models.mlp()
    with torch.no_grad():
        net[2].weight[0, 0] = bad
    with pytest.raises(sparsefx.MaskError, match=r"2.* holds NaN or Inf in 2\.weight"):
        sparse_of(net, inplace=True, policy=policy)
    assert type(net[0]) is nn.Linear
    assert list(net._modules) == ["0", "1", "2"]


def test_a_model_without_weights() -> None:
    with pytest.raises(sparsefx.MaskError, match=r"has no weight to mask"):
        sparse_of(nn.Sequential(nn.ReLU()))
    with pytest.raises(sparsefx.MaskError, match=r"model is a int; give a torch\.nn"):
        sparsefx.transform(3)


def test_a_model_without_weights_names_the_first_three() -> None:
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.tables = nn.ParameterList(torch.ones(4, 8) for _ in range(5))

        def forward(self, x):
            return sum(self.tables, x)

    with pytest.raises(sparsefx.MaskError, match=r"tables\.2: [^;]*\)$"):
        sparse_of(Adds())


def test_out_of_order() -> None:
    net = models.mlp()
    sparse = sparse_of(net, budget=0.3)
    again = r"this Sequential is already transformed; transform the original"
    with pytest.raises(sparsefx.MaskError, match=again):
        sparse_of(sparse)
    with pytest.raises(sparsefx.MaskError, match=r"needs what sparsefx\.transform"):
        sparsefx.step(net)
    with pytest.raises(sparsefx.MaskError, match=r"cannot be pickled.*sparsefx\.save"):
        pickle.dumps(sparse)
    dense = sparsefx.finalize(sparse)
    finalized = re.escape("finalize after finalize: this model has been finalized")
    with pytest.raises(sparsefx.MaskError, match=finalized):
        sparsefx.finalize(sparse)
    with pytest.raises(sparsefx.MaskError, match=r"step after finalize"):
        sparsefx.step(sparse)
    for verb in (sparsefx.finalize, sparsefx.step, sparsefx.masks, sparsefx.report):
        with pytest.raises(sparsefx.MaskError, match=r"or is already finalized"):
            verb(dense)
    assert sparse_of(dense, budget=0.2) is not None  # a plain model again


def test_a_model_that_cannot_be_copied() -> None:
    import threading

    net = models.mlp()
    net.lock = threading.Lock()
    with pytest.raises(sparsefx.MaskError, match=r"cannot be copied.*inplace=True"):
        sparse_of(net)
    assert sparse_of(net, inplace=True) is net


def test_an_optimizer_is_always_welcome() -> None:
    sparse = sparsefx.transform(nn.Linear(4, 2), example_inputs=(torch.ones(2, 4),))
    optimizer = torch.optim.SGD(sparse.parameters())
    sparsefx.step(sparse, optimizer=optimizer)
    with pytest.raises(sparsefx.MaskError, match="optimizer is a str"):
        sparsefx.step(sparse, "adam")
