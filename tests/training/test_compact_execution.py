"""Training on kept weights alone is training under masks."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch

import sparsefx
from sparsefx.kernels import support_products
from sparsefx.masking import compact_weight
from sparsefx.training import compact_execution
from tests.training.compact_models import (
    LEARNERS,
    OPTIMIZERS,
    X,
    assert_same,
    made,
    net,
    trained,
)

MEASURED = compact_execution.is_faster


@pytest.fixture(autouse=True)
def _every_layer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small layers are never faster so: the choice has a test of its own."""
    with monkeypatch.context() as patch:
        patch.setattr(compact_execution, "is_faster", lambda *_: True)
        yield


@pytest.mark.parametrize(
    ("case", "optimizer"),
    [*((case, "sgd") for case in LEARNERS), *((c, "adamw") for c in LEARNERS)][:10],
)
def test_it_is_masked_training(case: str, optimizer: str) -> None:
    """Several updates, the ramp, the freeze and what comes after it."""
    masked, sparse = made("masked", case), made("sparse", case)
    makes = OPTIMIZERS[optimizer]
    one, other = makes(masked.parameters()), makes(sparse.parameters())
    for steps in (9, 14):
        there, here = trained(masked, one, steps), trained(sparse, other, steps)
        assert there == pytest.approx(here, abs=1e-10)
        assert_same(masked, sparse)
    for name, parameter in sparse.named_parameters():
        if name.endswith("weight"):
            kept = int(sparsefx.masks(sparse)[name].sum())
            assert parameter.shape == (kept, 1, 1)
            for value in other.state[parameter].values():
                assert value.numel() in (1, kept)
    assert_same(sparsefx.finalize(masked), sparsefx.finalize(sparse))


def test_accumulated_gradients_grow_the_same_entries() -> None:
    masked, sparse = made("masked"), made("sparse")
    one, other = (OPTIMIZERS["sgd"](m.parameters()) for m in (masked, sparse))
    there, here = trained(masked, one, 6, parts=3), trained(sparse, other, 6, parts=3)
    assert there == pytest.approx(here, abs=1e-10)
    assert_same(masked, sparse)


@pytest.mark.skipif(
    not support_products.usable(torch.ones(1)), reason="no C++ compiler"
)
def test_kernels_train_as_masks_do() -> None:
    """In float32; masks may not differ, weights by rounding."""
    masked, sparse = (made(e, dtype=torch.float32) for e in ("masked", "sparse"))
    one, other = (OPTIMIZERS["sgd"](m.parameters()) for m in (masked, sparse))
    trained(masked, one, 5), trained(sparse, other, 5)
    for name, mask in sparsefx.masks(masked).items():
        assert torch.equal(mask, sparsefx.masks(sparse)[name])
    assert_same(masked, sparse, 1e-5)


def test_second_derivatives_are_those_of_masks() -> None:
    found = []
    for execution in ("masked", "sparse"):
        dtype = torch.float32
        sparse = made(execution, "fixed", dtype)
        x = X.clone().requires_grad_()
        (slope,) = torch.autograd.grad(sparse(x).square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        mask = sparsefx.masks(sparse)["2.weight"]
        grad = sparse[2]._parameters["weight"].grad
        assert grad is not None
        found.append(grad[mask] if grad.shape == mask.shape else grad.flatten())
    assert torch.allclose(found[0], found[1], 1e-4, 1e-5)


def test_precisions_and_transforms_go_on() -> None:
    sparse = made(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert sparse(X).dtype == torch.bfloat16
    whole = made(dtype=torch.float32).double()
    assert torch.allclose(whole(X.double()).float(), sparse(X), 1e-4, 1e-5)
    each = torch.func.vmap(sparse)(X[:, None])[:, 0]
    assert torch.allclose(each, sparse(X), 1e-4, 1e-5)
    assert sparse(X[0]).shape == (5,)
    assert sparse(X[:0]).shape == (0, 5)


def test_what_does_not_go_together_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, settings, says in (
        ("spartan", {}, "learner soft_topk"),
        ("topkast", {}, "learner dual_averaging"),
        ("magnitude", {"dropped": "hold"}, "dropped: zero"),
        ("rigl", {"optimizer_state": "keep"}, "optimizer_state: zero"),
        ("rigl", {"growth_momentum": 0.5}, "growth_momentum"),
    ):
        with pytest.raises(sparsefx.PolicyError, match=says):
            sparsefx.load_policy(name, execution="sparse", **settings)
    sparse = made()
    before = copy.deepcopy(sparse.state_dict())
    with pytest.raises(sparsefx.MaskError, match="optimizer=optimizer"):
        sparsefx.step(sparse)
    foreign = torch.optim.SGD(list(sparse.parameters())[1:], 0.1)
    with pytest.raises(sparsefx.MaskError, match=r"does not hold '0\.weight'"):
        sparsefx.step(sparse, foreign)
    with monkeypatch.context() as patch:
        patch.setattr(compact_weight, "is_compiling", lambda: True)
        with pytest.raises(sparsefx.MaskError, match=r"torch\.compile"):
            sparse(X.double())
    for key, value in sparse.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[key].nan_to_num())


def test_layers_that_are_not_faster_stay_masked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compact_execution, "is_faster", lambda mask, *_: len(mask) > 20)
    sparse = made()
    shapes = [p.shape for p in sparse.parameters() if p.ndim > 1]
    assert [tuple(s) for s in shapes[1:]] == [(17, 30), (5, 17)]
    assert len(shapes[0]) == 3
    trained(sparse, OPTIMIZERS["sgd"](sparse.parameters()), 3)
    monkeypatch.setattr(compact_execution, "is_faster", lambda *_: False)
    with pytest.warns(UserWarning, match="leaves all 3 layers masked"):
        sparsefx.transform(net(), "rigl", example_inputs=(X,), execution="sparse")


def test_a_falling_budget_makes_layers_sparse_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        compact_execution, "is_faster", lambda mask, *_: mask.double().mean() < 0.5
    )
    masked, sparse = made("masked", "granet"), made("sparse", "granet")
    one, other = (OPTIMIZERS["adamw"](m.parameters()) for m in (masked, sparse))
    assert sparse[0]._parameters["weight"].shape == (30, 13)
    there, here = trained(masked, one, 14), trained(sparse, other, 14)
    assert there == pytest.approx(here, abs=1e-10)
    assert sparse[0]._parameters["weight"].ndim == 3
    assert_same(masked, sparse)


def test_the_choice_is_that_of_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, told = torch.rand(9, 7) < 0.3, {"masked": 1.0, "sparse": 2.0}

    def timed(calls: dict[str, Callable[[], None]], *_: object, **__: object) -> object:
        for call in calls.values():
            call()
        return told

    monkeypatch.setattr(compact_execution, "interleaved", timed)
    before = torch.get_rng_state()
    for dtype in (torch.float32, torch.float64):
        like = torch.ones(1, dtype=dtype)
        told["sparse"] = 2.0
        assert not MEASURED(mask, 5, like)
        told["sparse"] = 0.5
        assert MEASURED(mask, 5, like)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_report_says_which_layers_train_so() -> None:
    found = sparsefx.report(made())
    assert {layer.execution for layer in found.layers} == {"sparse"}
    assert "3 of 3 layers train on kept weights alone (0.weight" in str(found)
    assert "kept weights alone" not in str(sparsefx.report(made("masked")))
    assert sparsefx.report(made()).to_dict()["layers"][0]["execution"] == "sparse"
