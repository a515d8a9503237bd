"""What layer.weight shows: the masked weight to read, the parameter to write."""

import copy
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import sparsefx
from sparsefx.masking.layer_weight import LayerWeight

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


@pytest.fixture
def sparse() -> Any:
    return sparsefx.transform(Pair(), budget=0.5, example_inputs=(X,))


def test_it_computes_like_the_masked_weight(sparse: Any) -> None:
    shown, latent = sparse.a.weight, sparse.get_parameter("a.weight")
    mask = sparsefx.masks(sparse)["a.weight"]
    assert int(shown.count_nonzero()) == int(mask.sum())
    assert not latent[~mask].eq(0).any()
    out = F.linear(X, shown)
    assert type(out) is Tensor
    torch.testing.assert_close(out, X @ shown.detach().clone().T)
    for read in (shown.clone(), shown + 0, shown.detach() + 0, 0 + shown.data):
        assert type(read) is Tensor
        assert torch.equal(read != 0, mask)
    for parts in (shown.sort(), shown.max(0), torch.linalg.qr(shown)):
        assert {type(part) for part in parts} == {Tensor}  # no views of it


INITIALISERS: dict[str, Callable[[Any], Any]] = {
    "constant": lambda w: nn.init.constant_(w, 2.0),
    "dirac": lambda w: nn.init.eye_(w),
    "kaiming": nn.init.kaiming_uniform_,
    "named": lambda w: nn.init.kaiming_normal_(tensor=w),
    "normal": nn.init.normal_,
    "orthogonal": nn.init.orthogonal_,
    "sparse": lambda w: nn.init.sparse_(w, 0.3),
    "truncated": nn.init.trunc_normal_,
    "uniform": nn.init.uniform_,
    "xavier": nn.init.xavier_normal_,
}


@pytest.mark.parametrize("name", INITIALISERS)
def test_initialisers_are_those_of_the_dense_model(sparse: Any, name: str) -> None:
    latent, dense = sparse.get_parameter("a.weight"), nn.Linear(6, 6).weight
    for weight in (sparse.a.weight, dense):
        torch.manual_seed(3)
        INITIALISERS[name](weight)
    assert torch.equal(latent, dense)
    assert latent.is_leaf
    assert latent.requires_grad


def test_reset_parameters_is_that_of_the_dense_layer(sparse: Any) -> None:
    dense = nn.Linear(6, 6)
    for layer in (sparse.a, dense):
        torch.manual_seed(3)
        layer.reset_parameters()
    assert torch.equal(sparse.get_parameter("a.weight"), dense.weight)


def _through_data(w: Any) -> None:
    w.data += 1


def _set_data(w: Any) -> None:
    w.data = torch.arange(36.0).view(6, 6)


def _item(w: Any) -> None:
    w[1, 2:] = 7


def _view(w: Any) -> None:
    w.view(-1)[3] = 7


def _in_place(w: Any) -> None:
    w *= 3


def _each_row(w: Any) -> None:
    for row in w.unbind():
        row.add_(1)


WRITES: dict[str, Callable[[Any], Any]] = {
    "add_": lambda w: w.add_(1),
    "copy_": lambda w: w.copy_(torch.ones(6, 6)),
    "data": _through_data,
    "data of data": lambda w: w.data.data.mul_(2),
    "data.fill_": lambda w: w.data.fill_(2),
    "detach": lambda w: w.detach().fill_(2),
    "each row": _each_row,
    "foreach": lambda w: torch._foreach_add_([w], 1.0),
    "in place": _in_place,
    "item": _item,
    "out": lambda w: torch.neg(torch.ones(6, 6), out=w),
    "set data": _set_data,
    "slice": lambda w: w[2:4].fill_(0),
    "transposed": lambda w: w.t()[1].mul_(4),
    "view": _view,
    "where": lambda w: w.masked_fill_(torch.eye(6).bool(), 5),
}


@pytest.mark.parametrize("name", WRITES)
@torch.no_grad()
def test_writes_reach_the_parameter(sparse: Any, name: str) -> None:
    latent = sparse.get_parameter("a.weight")
    dense = latent.detach().clone()
    before = dense.clone()
    mask = sparsefx.masks(sparse)["a.weight"]
    WRITES[name](sparse.a.weight)
    WRITES[name](dense)
    assert torch.equal(latent, dense)
    assert not torch.equal(latent, before)
    assert latent is sparse.get_parameter("a.weight")
    assert mask.shape == sparse.a.weight.shape


def test_a_write_in_grad_mode_fails_as_in_the_dense_model(sparse: Any) -> None:
    for write in (WRITES["add_"], WRITES["view"]):
        with pytest.raises(RuntimeError, match="leaf Variable"):
            write(sparse.a.weight)


def test_gradients_and_hooks_are_the_parameters(sparse: Any) -> None:
    seen: list[Tensor] = []
    latent = sparse.get_parameter("a.weight")
    sparse.a.weight.register_hook(seen.append)
    assert sparse.a.weight.grad is None
    sparse(X).sum().backward()
    assert sparse.a.weight.grad is latent.grad
    assert seen
    sparse.a.weight.grad = None
    assert latent.grad is None
    sparse.a.weight.requires_grad_(False)
    assert not latent.requires_grad
    assert not sparse.a.weight.requires_grad
    sparse.a.weight.requires_grad = True
    assert latent.requires_grad
    with pytest.warns(UserWarning, match="lacks the budget's share"):
        (found,) = torch.autograd.grad(sparse(X).sum(), sparse.a.weight)
    assert found.shape == latent.shape


def test_an_optimizer_made_from_layers_trains_the_parameters() -> None:
    models = []
    for made_from_layers in (False, True):
        torch.manual_seed(0)
        model: Any = sparsefx.transform(Pair(), budget=0.5, example_inputs=(X,))
        chosen = [model.a.weight, model.b.weight]
        if not made_from_layers:
            chosen = [model.get_parameter(f"{name}.weight") for name in "ab"]
        adam = torch.optim.AdamW(chosen, 0.1, weight_decay=0.5)
        for _ in range(3):
            adam.zero_grad()
            model(X).square().sum().backward()
            torch.nn.utils.clip_grad_norm_(chosen, 1.0)
            adam.step()
            sparsefx.step(model)
        assert all(type(p) is nn.Parameter for p in adam.param_groups[0]["params"])
        models.append(model)
    one, two = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], two[name]) for name in ("a.weight", "b.weight"))


def test_it_is_a_parameter_of_its_layer(sparse: Any) -> None:
    latent = dict(sparse.named_parameters())["a.weight"]
    assert isinstance(sparse.a.weight, nn.Parameter)
    assert sparse.get_parameter("a.weight") is latent
    assert sparse.a.get_parameter("weight") is latent
    sparse.a.weight = sparse.a.weight  # what tying again does
    assert sparse.get_parameter("a.weight") is latent
    other = nn.Parameter(torch.ones(6, 6))
    sparse.a.weight = other
    assert sparse.get_parameter("a.weight") is other
    sparsefx.step(sparse)
    assert int(sparse.a.weight.count_nonzero()) < 36


def test_what_would_take_the_weight_away_is_refused(sparse: Any) -> None:
    before = {name: p.clone() for name, p in sparse.named_parameters()}
    with pytest.raises(sparsefx.MaskError, match=r"'weight' of this Linear is masked"):
        prune.l1_unstructured(sparse.a, "weight", 0.3)
    with pytest.raises(sparsefx.MaskError, match="another storage"):
        sparse.a.weight.set_(torch.ones(6, 6))
    with pytest.raises(sparsefx.MaskError, match="another storage"):
        parametrizations.orthogonal(sparse.a)
    with pytest.raises((RuntimeError, ValueError)):
        parametrizations.weight_norm(sparse.a)
    other = nn.Linear(6, 6)
    with pytest.raises(ValueError, match="non-leaf"):
        other.weight = sparse.a.weight
    after = dict(sparse.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    sparse(X)


def test_latent_shows_the_dense_model() -> None:
    net = Pair()
    dense = copy.deepcopy(net)
    sparse: Any = sparsefx.transform(net, budget=0.5, example_inputs=(X,))
    masked = sparse(X)
    with sparsefx.latent(sparse):
        assert sparse.a.weight is sparse.get_parameter("a.weight")
        with sparsefx.latent(sparse):
            torch.testing.assert_close(sparse(X), dense(X))
        torch.testing.assert_close(sparse(X), dense(X))
    assert torch.equal(sparse(X), masked)
    assert isinstance(sparse.a.weight, LayerWeight)
    with pytest.raises(ZeroDivisionError), sparsefx.latent(sparse):
        _ = 1 / 0
    assert torch.equal(sparse(X), masked)
    with pytest.raises(sparsefx.MaskError, match="this Pair has no masks"):
        sparsefx.latent(dense).__enter__()


def test_a_forward_of_its_own_survives_finalize(sparse: Any) -> None:
    function = type(sparse).forward
    sparse.forward = types.MethodType(lambda self, x: 2 * function(self, x), sparse)
    masked = sparse(X)
    final = sparsefx.finalize(sparse)
    torch.testing.assert_close(final(X), masked)
    with torch.no_grad():
        final.b.weight.zero_()
        final.b.bias.zero_()
    assert final(X).eq(0).all()
    assert torch.equal(sparse(X), masked)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_compute_with_masked_weights(kind: Any) -> None:
    net = kind(6, 4)
    sparse = sparsefx.transform(net, budget={"params": 0.5}, example_inputs=(X,))
    final = sparsefx.finalize(copy.deepcopy(sparse))
    torch.testing.assert_close(sparse(X)[0], final(X)[0])
    latent = sparse.get_parameter("weight_ih_l0")
    sparse.reset_parameters()
    assert not latent.eq(0).any()
    assert all(type(weight) is not LayerWeight for weight in sparse._flat_weights)
