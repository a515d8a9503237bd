"""What is stored as kept weights is shown, saved, loaded and copied as whole ones."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.training import checkpoint, compact_execution
from tests.training.compact_models import (
    OPTIMIZERS,
    X,
    assert_same,
    made,
    net,
    trained,
)


@pytest.fixture(autouse=True)
def _every_layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small layers are never faster so: the choice has a test of its own."""
    with monkeypatch.context() as patch:
        patch.setattr(compact_execution, "is_faster", lambda *_: True)
        yield


def test_the_given_model_keeps_its_weights() -> None:
    model = net().double()
    before = copy.deepcopy(model.state_dict())
    sparse = made(model=model)
    trained(sparse, OPTIMIZERS["adamw"](sparse.parameters()), 4)
    assert model[0].weight.shape == (30, 13)
    assert torch.equal(model[0].weight, before["0.weight"])


def test_state_dicts_are_dense_and_load_again() -> None:
    sparse, again = made(), made()
    optimizer = OPTIMIZERS["adamw"](sparse.parameters())
    trained(sparse, optimizer, 5)
    state, moments = copy.deepcopy(sparse.state_dict()), optimizer.state_dict()
    assert state["0.weight"].shape == (30, 13)
    assert torch.equal(state["0.weight"] != 0, sparsefx.masks(sparse)["0.weight"])
    layer = sparse[0].state_dict()["weight"]
    assert torch.equal(layer, state["0.weight"])
    again.load_state_dict(state)
    second = OPTIMIZERS["adamw"](again.parameters())
    second.load_state_dict(copy.deepcopy(moments))
    assert trained(sparse, optimizer, 5) == trained(again, second, 5)
    assert_same(sparse, again, 0.0)


@pytest.mark.parametrize("there", ["masked", "sparse"])
def test_files_go_from_one_execution_to_the_other(tmp_path: Path, there: str) -> None:
    pytest.importorskip("safetensors")
    first = made(there)
    trained(first, OPTIMIZERS["sgd"](first.parameters()), 4)
    sparsefx.save(first, tmp_path / "a.safetensors")
    plain = sparsefx.load(net().double(), tmp_path / "a.safetensors")
    assert_same(first, plain, 0.0)
    assert plain[0]._parameters["weight"].ndim == (3 if there == "sparse" else 2)
    assert plain[0].weight.shape == (30, 13)
    other = made("masked" if there == "sparse" else "sparse")
    with pytest.warns(UserWarning, match="execution"):
        sparsefx.load(other, tmp_path / "a.safetensors")
    assert_same(first, other, 0.0)
    trained(other, OPTIMIZERS["sgd"](other.parameters()), 4)


def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    sparse = made()
    values = sparse[0]._parameters["weight"].detach().clone()
    other = sparsefx.transform(nn.Linear(13, 5), "rigl", example_inputs=(X,))
    sparsefx.save(other, tmp_path / "b.safetensors")
    with pytest.raises(sparsefx.MaskError):
        sparsefx.load(sparse, tmp_path / "b.safetensors")
    state = sparse.state_dict()
    state["0.weight"] = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="size mismatch"):
        sparse.load_state_dict(state)
    assert torch.equal(sparse[0]._parameters["weight"], values)


def test_a_load_that_fails_late_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it has been read which layers were stored as kept weights: others."""
    pytest.importorskip("safetensors")
    sparse = made()
    with monkeypatch.context() as patch:
        patch.setattr(compact_execution, "is_faster", lambda mask, *_: len(mask) < 20)
        sparsefx.save(made(), tmp_path / "c.safetensors")
    before = sparse(X.double())

    def fails(*_: object) -> None:
        raise sparsefx.MaskError("late")

    monkeypatch.setattr(checkpoint, "_check_masks", fails)
    with pytest.raises(sparsefx.MaskError, match="late"):
        sparsefx.load(sparse, tmp_path / "c.safetensors")
    assert torch.equal(sparse(X.double()), before)
    assert sparse[0]._parameters["weight"].ndim == 3


def test_dense_checkpoints_find_masks_anew() -> None:
    masked, sparse = made("masked"), made()
    torch.manual_seed(5)
    dense = {k: torch.randn_like(v) for k, v in net().double().state_dict().items()}
    masked.load_state_dict(dense), sparse.load_state_dict(dense)
    x = X.double()
    assert torch.allclose(masked(x), sparse(x), 0, 1e-12)
    assert_same(sparsefx.finalize(masked), sparsefx.finalize(sparse))


def test_copies_are_whole_and_go_on() -> None:
    sparse = made()
    optimizer = OPTIMIZERS["sgd"](sparse.parameters())
    trained(sparse, optimizer, 3)
    twin = copy.deepcopy(sparse)
    assert twin[0]._parameters["weight"].shape == (30, 13)
    assert_same(sparse, twin, 0.0)
    trained(twin, OPTIMIZERS["sgd"](twin.parameters()), 3)
    average = torch.optim.swa_utils.AveragedModel(sparse)
    with pytest.raises(RuntimeError, match=r"size|shape"):
        average.update_parameters(sparse)  # places that move have no average
    alone = sparsefx.transform(nn.Linear(4, 2), "rigl", example_inputs=(X[:, :4],))
    assert copy.deepcopy(alone).weight.shape == (2, 4)


def test_layers_show_dense_weights() -> None:
    masked, sparse = made("masked"), made()
    weight = sparse[0].weight
    assert (weight.shape, weight.ndim, len(weight)) == ((30, 13), 2, 30)
    assert torch.equal(weight.detach() + 0, masked[0].weight.detach() + 0)
    assert torch.equal(weight.abs().sum(), masked[0].weight.abs().sum())
    x = X.double()
    masked[0].weight.pow(2).sum().backward()
    weight.pow(2).sum().backward()
    mask = sparsefx.masks(sparse)["0.weight"]
    assert torch.equal(masked[0].weight.grad[mask], weight.grad.flatten())
    for change in (
        lambda: sparse[0].weight.data.fill_(1.0),
        lambda: nn.init.zeros_(sparse[0].weight),
        lambda: sparse[0].weight.detach()[0].mul_(2.0),
    ):
        with pytest.raises(sparsefx.MaskError, match="latent"):
            change()
    with sparsefx.latent(sparse), sparsefx.latent(sparse):
        sparse[0].weight.data.mul_(2.0)
    with sparsefx.latent(masked):
        masked[0].weight.data.mul_(2.0)
    assert torch.equal(masked(x), sparse(x))
