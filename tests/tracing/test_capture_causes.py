"""What a recording once lost, one small model each: it is kept now, or said."""

import dataclasses
import itertools
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.errors import CaptureError
from sparsefx.masking.masked_module import program_of
from sparsefx.tracing.capture import capture
from sparsefx.tracing.preserve import preserved
from tests import models
from tests.tracing.masked_runs import Run, X, outcome, sparse_of

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import traps

from tests.some_of import some_of

# these have nothing to mask, or may not be transformed; each is tested on its own
REFUSED = {"scripted_child"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", some_of(sorted(set(traps.MODELS) - REFUSED), 3))
def test_traps_are_masked_and_equal(name: str) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(traps.MODELS[name]())
    (model, inputs), (original, _) = made
    try:
        sparse = sparse_of(model, inputs)
    except sparsefx.BudgetError:  # nothing costs MACs
        sparse = sparsefx.transform(
            model, example_inputs=inputs, budget={"params": 1.0}
        )
    for training in (False, True, False):
        wanted = outcome(original, inputs, training)
        got = outcome(sparse, inputs, training)
        assert len(wanted) == len(got)
        for a, b in zip(wanted, got, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    finalized = sparsefx.finalize(sparse)
    assert list(finalized.state_dict()) == list(original.state_dict())


def test_autograd_functions_keep_their_gradient() -> None:
    model = models.CustomBackward()
    found = capture(model, (X,))
    assert found.whole
    assert "_Doubled" in found.graphs[""].code


@pytest.mark.parametrize("name", ["layer_drop", "layer_drop_numpy"])
def test_random_numbers_that_torch_does_not_draw(name: str) -> None:
    model, inputs = traps.MODELS[name]()
    states = random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002
    found = capture(model, inputs)
    assert set(found.graphs) == {":eval", "a", "b"}
    assert "draws random numbers from" in found.reasons[""]
    assert states == (random.getstate(), np.random.get_state()[1].tobytes())  # noqa: NPY002


def test_functions_that_keep_tensors() -> None:
    model, inputs = traps.MODELS["cached_function"]()
    table = traps.control.table_of
    assert capture(model, inputs).whole
    assert type(table(6)) is Tensor  # no fake one is left
    wanted = model(*inputs)
    assert torch.equal(sparse_of(model, inputs)(*inputs), wanted)


def test_hooks_that_a_model_installs_itself_are_taken_off() -> None:
    class Hooked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.ready = nn.Linear(6, 6), False

        def forward(self, x):
            if not self.ready:
                self.a.register_forward_hook(lambda m, args, out: 2 * out)
                self.ready = True
            return self.a(x)

    model = Hooked()
    found = capture(model, (X,))
    assert "submodule 'a' has hooks" in found.reasons[""]
    assert not model.a._forward_hooks
    assert not model.ready
    model(X)
    assert len(model.a._forward_hooks) == 1


def test_attributes_that_change_are_seen() -> None:
    model = Run(lambda m, x: m.b(m.a(x)) * m.scale)
    model.scale, model.table = 2.0, {"shift": 1}
    found = capture(model, (X,)).programs[""]
    assert found.run(model, (X,), {})[0]
    for name, value in (("scale", 3.0), ("table", {"shift": 2})):
        before = getattr(model, name)
        setattr(model, name, value)
        assert not found.run(model, (X,), {})[0]
        setattr(model, name, before)
        assert found.run(model, (X,), {})[0]


def test_caches_are_built_by_python_first() -> None:
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.tables = nn.Linear(6, 6), {}
            self.register_buffer("index", torch.zeros(1))

        def forward(self, x):
            if x.shape[1] not in self.tables:
                self.tables[x.shape[1]] = torch.linspace(0, 1, x.shape[1])
            if self.index.shape[0] != x.shape[1]:
                self.index = torch.arange(float(x.shape[1]))
            return self.a(x + self.tables[x.shape[1]] * self.index)

    model = Cached()
    sparse = sparse_of(model, (X,))
    assert model.tables == {}
    program = program_of(sparse)
    assert not program.run(sparse, (X,), {})[0]
    wanted = model(X)
    assert torch.equal(sparse(X), wanted)
    assert program.run(sparse, (X,), {})[0]
    assert torch.equal(sparse(X), wanted)


def test_contents_of_containers_are_put_back() -> None:
    model = nn.Linear(2, 2)
    model.seen, model.names = [1], {"a": 1}
    with preserved(model):
        model.seen.append(2)
        model.names.clear()
    assert (model.seen, model.names) == ([1], {"a": 1})


def test_the_self_check_finds_what_recording_cannot_see() -> None:
    calls = itertools.count(1)
    model = Run(lambda m, x: m.b(m.a(x)) * next(calls))
    found = capture(model, (X,))
    assert "the recorded graph is not the module: outputs differ" in found.reasons[""]
    assert set(found.graphs) == {"a", "b"}
    with pytest.warns(UserWarning, match="not one graph"):
        sparse = sparse_of(model, (X,))
    calls = itertools.count(2)
    assert torch.equal(sparse(X), 2 * model.b(model.a(X)))
    assert torch.equal(sparse(X), 3 * model.b(model.a(X)))
    assert capture(model, (X,), verify=False).whole  # why it is on by default


def test_the_line_that_decides_by_values_is_named() -> None:
    model, inputs = traps.MODELS["branch_on_values"]()
    reason = capture(model, inputs).reasons[""]
    assert "the values of a tensor decide what runs, at control.py:" in reason
    assert "if v.sum() > 0" in reason


def test_own_hooks_run_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    model[0].register_forward_hook(lambda m, args, out: 2 * out)
    model[0].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    with pytest.warns(UserWarning, match="not one graph"):
        sparse = sparse_of(model, (X,))
    assert "0" in sparsefx.graphs(sparse)
    assert torch.equal(sparse(X), model(X))


def test_dataclasses_come_back() -> None:
    @dataclasses.dataclass
    class Answer:
        logits: Tensor
        parts: list
        note: str = "no note"

    model = Run(lambda m, x: Answer(m.b(m.a(x)), [m.a(x)]))
    sparse = sparse_of(model, (X,))
    assert set(sparsefx.graphs(sparse)) == {""}
    out = sparse(X)
    assert type(out) is Answer
    assert out.note == "no note"
    assert torch.equal(out.parts[0], model(X).parts[0])


def test_what_cannot_be_masked_at_all_is_refused_by_name() -> None:
    with pytest.warns(match=r"torch\.jit.* is deprecated"):
        scripted = torch.jit.script(nn.Linear(6, 6))
    with pytest.raises(CaptureError, match="submodule '1' is scripted"):
        sparse_of(nn.Sequential(nn.Linear(6, 6), scripted), (X,))
    lazy = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(CaptureError, match="layer '0' is not built yet"):
        sparse_of(lazy, (X,))


def test_coverage_as_plain_values() -> None:
    found = capture(models.DataDependent(), (X.abs() + 1,))
    rows = {row["parameter"]: row for row in found.to_dict()["coverage"]}
    assert rows["a.weight"]["masked"] == "graph"
    assert rows["b.weight"]["masked"] == "property"
    assert "never call it" in rows["b.weight"]["reason"]
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_embeddings_with_a_maximal_norm_are_not_rescaled() -> None:
    model = nn.Sequential(nn.Embedding(10, 6, max_norm=1.0), nn.Linear(6, 3))
    before = model[0].weight.detach().clone()
    capture(model, (torch.arange(6).reshape(2, 3),))
    assert torch.equal(model[0].weight, before)
