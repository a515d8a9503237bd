"""Presets that rewrite a model before it is masked: exact cost, life cycle, errors."""

import copy
import itertools
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefx
from sparsefx.training.build_rewritten import record_of_root
from tests.rewrites import ResNet, example
from tests.some_of import some_of

PRESETS = ("sparse_wide", "sparse_parallel", "sparse_factorized", "sparse_doped")


def small():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 12),
        nn.ReLU(),
        nn.Linear(12, 4),
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_the_life_cycle_at_equal_cost(preset: str) -> None:
    net, x = small(), torch.randn(4, 3, 6, 6)
    dense = sparsefx.costs(net, (x,)).totals()["macs"]["maskable"]
    before = copy.deepcopy(net.state_dict())
    sparse = sparsefx.transform(
        net, preset, density=0.25, example_inputs=(x,), total_steps=12, update_every=3
    )
    kept = record_of_root(sparse).kept
    assert {n: int(m.sum()) for n, m in sparsefx.masks(sparse).items()} == kept
    optimizer = torch.optim.SGD(sparse.parameters(), 0.05, momentum=0.9)
    first = sparsefx.masks(sparse)
    for _ in range(5):
        F.cross_entropy(sparse(x), torch.arange(4)).backward()
        optimizer.step()
        optimizer.zero_grad()
        info = sparsefx.step(sparse, optimizer)
        assert info.hard_cost == dense
    after = sparsefx.masks(sparse)
    assert any(not torch.equal(after[n], first[n]) for n in first)
    totals = sparsefx.report(sparse).to_dict()["totals"]["macs"]
    assert totals["kept"] == totals["original"] == dense
    assert totals["dense"] > dense
    sparse.eval()
    plain = sparsefx.finalize(sparse).eval()
    assert isinstance(plain, torch.fx.GraphModule)
    assert not any("sparsefx" in name for name, _ in plain.named_modules())
    assert torch.equal(plain(x), sparse(x))
    assert plain(x[:1]).shape == (1, 4)
    assert torch.equal(copy.deepcopy(plain)(x), plain(x))
    assert torch.equal(pickle.loads(pickle.dumps(plain))(x), plain(x))
    for name, count in kept.items():
        assert int(plain.get_parameter(name).count_nonzero()) <= count
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("learner", ["soft_topk", "set", "fixed", "magnitude"])
def test_any_learner_keeps_the_cost(learner: str) -> None:
    net, x = small(), torch.randn(4, 3, 6, 6)
    dense = sparsefx.costs(net, (x,)).totals()["macs"]["maskable"]
    sparse = sparsefx.transform(
        net, "sparse_wide", learner=learner, update_every=1, example_inputs=(x,)
    )
    optimizer = torch.optim.SGD(sparse.parameters(), 0.01)
    for _ in range(2):
        sparse(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsefx.step(sparse, optimizer if learner in ("set", "magnitude") else None)
        assert sparsefx.report(sparse).to_dict()["totals"]["macs"]["kept"] == dense


@pytest.mark.parametrize(
    ("learner", "preset"),
    some_of(itertools.product(["granet", "magnitude", "soft_topk"], PRESETS), 3),
)
def test_the_cost_follows_a_ramp_down_to_the_dense_models(
    preset: str, learner: str
) -> None:
    """GraNet and GMP on wider layers, as published: from all of them to equal cost."""
    net, x = small(), torch.randn(4, 3, 6, 6)
    dense = sparsefx.costs(net, (x,)).totals()["macs"]["maskable"]
    sparse = sparsefx.transform(
        net,
        preset,
        density=0.25,
        learner=learner,
        budget_ramp="cubic",
        end_step=8,
        total_steps=12,
        update_every=2,
        freeze_step=None,
        example_inputs=(x,),
    )
    optimizer = torch.optim.SGD(sparse.parameters(), 0.05, momentum=0.9)
    whole = sparsefx.report(sparse).to_dict()["totals"]["macs"]["dense"]
    assert sparsefx.report(sparse).to_dict()["totals"]["macs"]["kept"] == whole
    for number in range(1, 13):
        F.cross_entropy(sparse(x), torch.arange(4)).backward()
        optimizer.step()
        optimizer.zero_grad()
        info = sparsefx.step(sparse, optimizer)
        left = max(1 - (number - number % 2) / 8, 0) ** 3
        assert info.budget == pytest.approx(dense + (whole - dense) * left)
        dear = max(site.cost("macs") for site in sparsefx.sites(sparse))
        assert info.budget - dear < info.hard_cost <= info.budget * (1 + 1e-12)
    assert info.hard_cost == dense
    counts = {n: int(m.sum()) for n, m in sparsefx.masks(sparse).items()}
    assert counts == record_of_root(sparse).kept


@pytest.mark.parametrize("learner", ["rigl", "soft_topk"])
def test_first_masks_carry_the_dense_energy(learner: str) -> None:
    """Also where masks keep the largest weights, which hold more than their share."""
    net, x = small(), torch.randn(4, 3, 6, 6)
    sparse = sparsefx.transform(
        net, "sparse_wide", density=0.1, learner=learner, example_inputs=(x,)
    )
    plain = sparsefx.finalize(sparse)
    for name, wanted in record_of_root(sparse).energies.items():
        energy = float(plain.get_parameter(name).detach().double().square().sum())
        assert energy == pytest.approx(wanted, rel=1e-3)


class Answers(nn.Module):
    """Keyword inputs, a flag, nested inputs and outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x, scale=1.0, *, parts):
        y = self.b(F.relu(self.a(x + parts["more"]))) * scale
        return {"logits": self.c(y), "all": (y.mean(), [x])}


@pytest.mark.parametrize("preset", ["sparse_parallel", "sparse_wide"])
def test_the_call_signature_stays(preset: str) -> None:
    net, x = Answers(), torch.randn(5, 4)
    parts = {"more": torch.randn(5, 4)}
    inputs = {"x": x, "scale": 2.0, "parts": parts}
    sparse = sparsefx.transform(net, preset, example_inputs=inputs)
    out = sparse(x, 2.0, parts=parts)
    assert torch.equal(out["logits"], sparse(x=x, parts=parts, scale=2.0)["logits"])
    assert out["all"][1][0] is x
    assert out["logits"].shape == (5, 3)
    plain = sparsefx.finalize(sparse)
    assert torch.equal(plain(x, parts=parts)["logits"], out["logits"])


def test_options_reach_the_rewrite() -> None:
    net, x = small(), torch.randn(4, 3, 6, 6)
    sparse = sparsefx.transform(
        net,
        "sparse_parallel",
        density=0.5,
        include=("5",),
        rewrite_options={"activation": "always"},
        example_inputs=(x,),
    )
    assert list(sparsefx.masks(sparse)) == [
        "5.branches.0.weight",
        "5.branches.1.weight",
    ]
    policy = sparsefx.load_policy("sparse_doped", density=0.25)
    assert policy.rewrite == "sparse_doped"
    assert sparsefx.load_policy({**_fields(policy)}) == policy


def _fields(policy):
    import yaml

    return yaml.safe_load(policy.to_yaml())


def test_whole_model_at_equal_cost() -> None:
    net, x = ResNet((1, 1)), example((2, 3, 16, 16))
    sparse = sparsefx.transform(
        net, "sparse_wide", rewrite_options={"iso": "model"}, example_inputs=(x,)
    )
    macs = record_of_root(sparse).macs
    norms = macs["norms_after"] - macs["norms_before"]
    assert norms > 0
    assert 0 <= macs["model_before"] - macs["model_after"] - norms < 2 * 256
    totals = sparsefx.report(sparse).to_dict()["totals"]["macs"]
    assert totals["kept"] + totals["fixed"] == macs["model_after"]


@pytest.mark.parametrize(("options", "says"), [
    ({"inplace": True}, "inplace"),
    ({"exclude": ("0",)}, "include"),
    ({"density": 0}, "density"),
    ({"rewrite": "sparse_deep"}, "sparse_wide"),
    ({"rewrite_options": {"branches": 3}}, "branches"),
])  # fmt: skip
def test_what_is_refused(options: dict[str, Any], says: str) -> None:
    x = torch.randn(4, 3, 6, 6)
    with pytest.raises(sparsefx.SparsefxError, match=says):
        sparsefx.transform(small(), "sparse_wide", example_inputs=(x,), **options)


def test_needs_inputs_and_one_graph() -> None:
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else self.b(x)

    with pytest.raises(sparsefx.CaptureError, match="not one graph"):
        sparsefx.transform(
            Branching(), "sparse_wide", example_inputs=(torch.ones(2, 4),)
        )
    with pytest.raises(sparsefx.CaptureError, match="example_inputs"):
        sparsefx.transform(ResNet((1, 1)), "sparse_wide")
    with pytest.warns(UserWarning, match="no effect with rewrite 'none'"):
        sparsefx.load_policy("uniform", density=0.25)
