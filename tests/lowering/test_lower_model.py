"""Lowered models compute what the dense ones do; the whole decides."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.lowering.inference_graph import graph_of
from sparsefx.lowering.layer_forms import CompressedLayer
from sparsefx.lowering.packed_layer import PackedLayer
from tests.lowering.thin_models import Block, thinned

SPARSE = (CompressedLayer, PackedLayer)


@pytest.mark.parametrize("target", ["csr", "dense"])
def test_forced_targets(block: Any, target: str) -> None:
    model, x = block
    fast = sparsefx.lower(model, (x,), target, compile=False, rounds=1)
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
    assert {row.chosen for row in fast.report.layers} == {target}
    names = [row.name for row in fast.report.layers]
    assert names == ["qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"]
    kinds = [type(m) for m in fast.modules() if isinstance(m, SPARSE)]
    assert bool(kinds) == (target == "csr")
    other = torch.randn(5, 50, 32)
    torch.testing.assert_close(fast(other), model(other), atol=1e-5, rtol=1e-4)


def test_the_whole_decides(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the layers are alone, a slower whole stays dense."""
    model, x = block
    state = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(
        "sparsefx.lowering.layer_trial.interleaved",
        lambda calls, *_: {name: 2.0 if name == "dense" else 1.0 for name in calls},
    )
    for gain, verdict in (
        (0.9, "dense: the whole model would run at 0.90x"),
        (1.5, "lowered: 1.50x the dense model"),
    ):
        monkeypatch.setattr(
            "sparsefx.lowering.lower_model.interleaved",
            lambda calls, *_, g=gain: {"dense": 3.0, "lowered": 3.0 / g},
        )
        fast = sparsefx.lower(model, (x,), compile=False, rounds=1)
        assert fast.report.verdict == verdict
        chosen = {row.chosen for row in fast.report.layers}
        assert (chosen == {"dense"}) == (gain < 1)
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_dense_models_stay(block: Any) -> None:
    _, x = block
    fast = sparsefx.lower(Block(), (x,), compile=False, rounds=1)
    assert fast.report.verdict == "dense: no layer is faster in another form"
    assert {row.lost["csr"] for row in fast.report.layers} == {"it has no zeros"}


class Branching(Block):
    """No single graph: a value decides which code runs."""

    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


def test_models_without_a_graph_are_lowered_by_modules(block: Any) -> None:
    _, x = block
    model = thinned(Branching())
    assert isinstance(graph_of(model, (x,)), str)
    fast = sparsefx.lower(model, (x,), "csr", compile=False, rounds=1)
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
    for name in ("qkv", "proj", "fc1", "fc2"):
        assert isinstance(fast.module.get_submodule(name), SPARSE)
        assert type(model.get_submodule(name)) is nn.Linear


def test_removal_in_a_model(block: Any) -> None:
    model, x = block
    with torch.no_grad():
        model.fc1.weight[32:] = 0
        model.qkv.weight[:16] = 0  # rows inside a fused layer: cut where they are
    fast = sparsefx.lower(model, (x,), "removal", compile=False, rounds=1)
    rows = {row.name: row for row in fast.report.layers}
    assert rows["fc1.weight"].chosen == rows["fc2.weight"].chosen == "removal"
    assert rows["fc1.weight"].shape == (128, 32)
    assert fast.plan.state_dict()["fc1.weight"].shape == (32, 32)
    assert fast.module.fc1.weight.shape == (32, 32)
    assert rows["qkv.weight"].chosen == "removal"
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)


def test_finalized_models(block: Any) -> None:
    x = block[1]
    sparse = sparsefx.transform(Block(), budget=0.1, example_inputs=(x,))
    with pytest.raises(sparsefx.MaskError, match="still in training"):
        sparsefx.lower(sparse, (x,))
    dense = sparsefx.finalize(sparse)
    fast = sparsefx.lower(dense, {"x": x}, "csr", compile=False, rounds=1)
    torch.testing.assert_close(fast(x=x), dense.eval()(x), atol=1e-5, rtol=1e-4)


def test_mistakes(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = block
    with pytest.raises(
        sparsefx.SparsefxError, match="known are auto, dense, sparse, removal"
    ):
        sparsefx.lower(model, (x,), "fastest")
    with pytest.raises(sparsefx.SparsefxError, match="rounds is 0"):
        sparsefx.lower(model, (x,), rounds=0)
    with pytest.raises(
        sparsefx.SparsefxError, match=r"can become bsr \(qkv.weight: no"
    ):
        sparsefx.lower(model, (x,), "bsr", compile=False, rounds=1)

    class Random(Block):
        def forward(self, x):
            return super().forward(x) + torch.rand_like(x)

    with pytest.raises(sparsefx.SparsefxError, match="draw random numbers"):
        sparsefx.lower(thinned(Random()), (x,), "csr", compile=False, rounds=1)


def test_report_and_pickle(block: Any) -> None:
    model, x = block
    fast = sparsefx.lower(model, (x,), "csr", compile=False, rounds=1)
    text = str(fast.report)
    assert "qkv.weight   96x32" in text
    assert "csr: " in text
    found = fast.report.to_dict()
    assert found["layers"][0]["name"] == "qkv.weight"
    assert found["times"].keys() == {"dense", "lowered"}
    assert found["gain"] == found["times"]["dense"] / found["times"]["lowered"]
    twin = pickle.loads(pickle.dumps(fast))
    assert torch.equal(twin(x), fast(x))


def test_training_mode_is_put_back(block: Any) -> None:
    model, x = block
    model.train()
    sparsefx.lower(model, (x,), "csr", compile=False, rounds=1)
    assert model.training
    assert all(module.training for module in model.modules())


@pytest.mark.slow
def test_compiled_whole(block: Any) -> None:
    """The sparse products stay whole: no graph break, and the outputs are right."""
    model, x = block
    fast = sparsefx.lower(model, (x,), "csr", rounds=1)
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        whole = torch.compile(fast, fullgraph=True)(x)
    torch.testing.assert_close(whole, model(x), atol=1e-5, rtol=1e-4)


class Merging(nn.Module):
    """Its `train` does more than set a flag, as adapters that merge weights do."""

    def __init__(self):
        super().__init__()
        self.fc, self.merged = nn.Linear(8, 8), False

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        return self.fc(x)


def test_every_module_keeps_its_mode():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), Merging(), nn.Dropout())
    model[1].eval()
    sparsefx.lower(model, (torch.randn(4, 8),), compile=False)
    assert [m.training for m in model] == [True, False, True, True]
    assert not model[2].merged
    with pytest.raises(sparsefx.SparsefxError):
        sparsefx.lower(model, (torch.randn(4, 8),), target="bsr", compile=False)
    assert [m.training for m in model] == [True, False, True, True]
