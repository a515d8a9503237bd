"""PEFT's adapters on a sparse base: they train densely, and merge into what is kept."""

from typing import Any

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.integrations.mask_steps import MaskSteps
from tests.integrations.small_training import STEPS, batches, loss, sparse_mlp

peft = pytest.importorskip("peft", reason="peft is missing")

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend

X = batches(32)[0][0]


def config(**more: Any) -> Any:
    return peft.LoraConfig(
        r=2, lora_alpha=8, target_modules=["0", "2"], init_lora_weights=False, **more
    )


def standing(policy: str = "cost_budget") -> nn.Module:
    """A sparse base whose masks no longer move."""
    sparse = sparse_mlp(policy)
    sgd = torch.optim.SGD(sparse.parameters(), 0.1)
    for batch in (batches(8) * 2)[:STEPS]:
        sgd.zero_grad()
        loss(sparse, batch).backward()
        sgd.step()
        assert sparsefx.step(sparse, optimizer=sgd).step
    return sparse


def adapted(sparse: nn.Module, steps: MaskSteps | None = None) -> Any:
    model = peft.get_peft_model(sparse, config())
    trained = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(trained, 1e-2)
    if steps is not None:
        steps.attach(model, [adam])
    for batch in batches(8):
        adam.zero_grad()
        loss(model, batch).backward()
        adam.step()
    return model


def test_an_adapter_trains_on_a_sparse_base() -> None:
    sparse, steps = standing(), MaskSteps()
    before = {name: mask.clone() for name, mask in sparsefx.masks(sparse).items()}
    weights = {n: p.detach().clone() for n, p in sparse.named_parameters()}
    model = adapted(sparse, steps)
    (report,) = steps.reports.values()
    assert report.step == STEPS + 4
    assert report.frozen
    after = sparsefx.masks(sparse)
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("0", "2"):
        layer = sparse.get_submodule(name)
        latent = layer.base_layer.get_parameter("weight")
        assert torch.equal(latent, weights[f"{name}.weight"])
        assert layer.lora_B["default"].weight.count_nonzero()
    assert torch.isfinite(model(X)).all()


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("policy", ["cost_budget", "rigl"])
def test_merging_keeps_the_masks(policy: str, safe: bool) -> None:
    sparse = standing(policy)
    masks = {name: mask.clone() for name, mask in sparsefx.masks(sparse).items()}
    model = adapted(sparse)
    layers = {name: sparse.get_submodule(name) for name in ("0", "2")}
    wanted = {
        f"{name}.weight": (
            layer.base_layer.weight + layer.get_delta_weight("default")
        ).detach()
        * masks[f"{name}.weight"]
        for name, layer in layers.items()
    }
    merged = model.merge_and_unload(safe_merge=safe)
    assert merged is sparse
    final = sparsefx.finalize(sparse)
    assert type(final[0]) is nn.Linear
    for name, mask in masks.items():
        weight = final.get_parameter(name)
        assert not weight[~mask].count_nonzero()
        torch.testing.assert_close(weight, wanted[name])


def test_what_is_adapted_already_masks_the_base_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 5))
    model = peft.get_peft_model(net, config())
    sparse = sparsefx.transform(
        model.base_model.model,
        budget={"params": 0.4},
        example_inputs=(X,),
        include=("*.base_layer",),
    )
    assert set(sparsefx.masks(sparse)) == {f"{n}.base_layer.weight" for n in (0, 2)}
    with pytest.raises(sparsefx.PolicyError, match=r"frozen|adapter"):
        sparsefx.transform(
            model.base_model.model, budget={"params": 0.4}, example_inputs=(X,)
        )
