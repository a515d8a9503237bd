"""Modes, regions, several calls, checkpointing: one graph, several, or Python."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sparsefx
from sparsefx.masking.masked_module import program_of
from sparsefx.tracing.capture import capture
from tests import models
from tests.tracing.masked_runs import Run, X, outcome, sparse_of


def no_grad(m, x):
    with torch.no_grad():
        x = m.a(x)
    return m.b(x)


def autocast(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        x = m.a(x)
    return m.b(x.float())


def shared_weight(m, x):
    with torch.no_grad():
        x = m.a(x)
    return m.a(x)


@pytest.mark.parametrize("run", [no_grad, autocast, shared_weight])
def test_regions_are_part_of_the_graph(run: Callable[..., Any]) -> None:
    model = Run(run)
    assert capture(model, (X,)).whole
    sparse = sparse_of(model, (X,))
    for training in (True, False):
        pairs = zip(
            outcome(model, (X,), training), outcome(sparse, (X,), training), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.is_grad_enabled()


def test_a_region_restores_what_was_before() -> None:
    sparse = sparse_of(Run(no_grad), (X,))
    with torch.no_grad():
        assert not sparse(X).requires_grad
        assert not torch.is_grad_enabled()


def test_a_graph_that_fails_leaves_its_regions() -> None:
    model = Run(no_grad)
    found = capture(model, (X,)).programs[""]
    model.a.weight.data = torch.zeros(5, 5)
    with pytest.raises(RuntimeError):
        found.run(model, (X,), {})
    assert torch.is_grad_enabled()


def test_modes_that_run_different_code_are_two_graphs() -> None:
    def run(m, x):
        return (m.b(m.a(x)), m.a(x)) if m.training else m.b(m.a(x))

    model = Run(run)
    sparse = sparse_of(model, (X,))
    assert set(sparsefx.graphs(sparse)) == {":train", ":eval"}
    program = program_of(sparse)
    for training in (True, False):
        sparse.train(training)
        assert program.run(sparse, (X,), {})[0]
    sparse.train()
    sparse.a.eval()  # neither mode as a whole
    assert not program.run(sparse, (X,), {})[0]
    assert not hasattr(sparse, "code")


def test_only_eval_may_be_a_graph() -> None:
    def run(m, x):
        return m.b(x) if m.training and torch.rand([]) < 0.5 else m.b(m.a(x))

    found = capture(Run(run), (X,))
    assert not found.whole
    assert set(found.graphs) == {":eval", "a", "b"}
    assert found.reasons[""].startswith("in train mode, ")
    table = sparsefx.costs(Run(run), (X,))  # and each weight's price is paid once
    assert table.totals()["macs"]["total"] == 2 * 4 * 36


def test_a_part_that_only_train_mode_uses_is_priced() -> None:
    def run(m, x):
        return m.b(x) if m.training and torch.rand([]) < 2 else m.a(x)

    table = sparsefx.costs(Run(run), (X,))
    assert {str(table[f"{name}.weight"].macs) for name in "ab"} == {"36*batch"}


class WithLabels(nn.Module):
    """A loss beside the output, where labels are given."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x, labels=None):
        out = self.b(self.a(x))
        if labels is None:
            return {"out": out}
        return {"out": out, "loss": nn.functional.cross_entropy(out, labels)}


def test_several_calls_have_a_graph_each() -> None:
    model = WithLabels()
    labels = torch.tensor([0, 1, 2, 0])
    calls = [(X,), {"x": X, "labels": labels}]
    sparse = sparsefx.transform(model, example_inputs=calls, budget=0.5)
    assert set(sparsefx.graphs(sparse)) == {"", ":2"}
    for twin in (sparse, copy.deepcopy(sparse)):
        program = program_of(twin)
        for args, kwargs in (((X,), {}), ((), calls[1])):
            done, out = program.run(twin, args, kwargs)
            assert done
            assert ("loss" in out) == bool(kwargs)
            wanted = type(twin).__mro__[1].forward(twin, *args, **kwargs)
            assert all(torch.equal(out[key], wanted[key]) for key in wanted)
        # a third structure: masked Python
        assert not program.run(twin, (X, labels), {})[0]
    rows = {row["name"]: row for row in sparsefx.report(sparse).to_dict()["layers"]}
    assert rows["a.weight"]["costs"]["macs"]["dense"] == 4 * 36  # of one call


def test_a_further_call_that_is_no_graph_is_said() -> None:
    model = Run(lambda m, x, flag: m.a(x) if not flag or x.sum() > 0 else m.b(x))
    model.forward = lambda x, flag=False: model.__dict__["run"](model, x, flag)
    found = capture(model, [(X,), (X, True)])
    assert set(found.graphs) == {""}
    assert not found.whole
    assert "cannot run on symbolic inputs" in found.reasons[":2"]
    found = capture(model, [(X, True), (X,)])
    assert set(found.graphs) <= {"a", "b"}
    assert found.reasons[":2"] == "the first call has no graph"


class Blocks(nn.Module):
    """Activation checkpointing while training, as large models have it."""

    def __init__(self, reentrant):
        super().__init__()
        self.blocks = nn.ModuleList(models.mlp(6, 8, 6) for _ in range(2))
        self.drop, self.head, self.reentrant = (
            nn.Dropout(0.5),
            nn.Linear(6, 2),
            reentrant,
        )

    def forward(self, x):
        for block in self.blocks:
            run = lambda y, block=block: self.drop(block(y))  # noqa: E731
            if self.training:
                x = checkpoint(run, x, use_reentrant=self.reentrant)
            else:
                x = run(x)
        return self.head(x)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_is_pythons_while_training_and_a_graph_in_eval(
    reentrant: bool,
) -> None:
    model, original = Blocks(reentrant), Blocks(reentrant)
    original.load_state_dict(model.state_dict())
    x = X.clone().requires_grad_()
    with pytest.warns(UserWarning, match="not one graph .in train mode"):
        sparse = sparse_of(model, (x,))
    assert set(sparsefx.graphs(sparse)) == {":eval", "blocks.0", "blocks.1", "head"}
    for training in (True, False):
        wanted = outcome(original, (x,), training)
        got = outcome(sparse, (x,), training)
        assert len(wanted) == (1 + len(list(model.parameters())) if training else 1)
        assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
    # the activations inside are still computed again, not kept
    calls = []
    sparse.train()
    sparse.drop.register_forward_pre_hook(lambda *_: calls.append(1))
    sparse(x).sum().backward()
    assert len(calls) == 4
