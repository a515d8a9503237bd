"""Every way to a gradient is exact, or says that a part is missing."""

import copy
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from tests import models
from tests.gradient_models import DYNAMO
from tests.some_of import some_of

X = torch.linspace(-1, 1, 6 * 8).reshape(6, 8).sin()
MISSING = "lacks the budget's share"
KINDS = ("unstructured", "channel", "block:2x4", "2:4")


def sparse_mlp(granularity: str = "unstructured", **more: Any) -> Any:
    torch.manual_seed(0)
    given = {"budget": 0.4, "beta": 4.0, **more}
    if granularity == "2:4":
        given = {"policy": "nm_2_4", "total_steps": 10, "beta": 4.0}
    else:
        given["granularity"] = granularity
    return sparsefx.transform(models.mlp(), example_inputs=(X,), **given)


def standing() -> Any:
    """Masks that no longer move: exact on every route."""
    sparse = sparse_mlp(total_steps=2, freeze_step=1)
    sparsefx.step(sparse)
    sparsefx.step(sparse)
    return sparse


def loss(model: nn.Module) -> Tensor:
    value: Tensor = model(X).square().mean()
    return value


def by_grad(model: Any) -> list[Tensor]:
    return list(torch.autograd.grad(loss(model), list(model.parameters())))


def by_inputs(model: Any) -> list[Tensor]:
    loss(model).backward(inputs=list(model.parameters()))
    return [p.grad for p in model.parameters()]


def by_func(model: Any) -> list[Tensor]:
    values = {name: p.detach() for name, p in model.named_parameters()}

    def of(values: dict[str, Tensor]) -> Tensor:
        found: Tensor = torch.func.functional_call(model, values, X)
        return found.square().mean()

    return list(torch.func.grad(of)(values).values())


def by_hooks(model: Any) -> list[Tensor]:
    found: dict[int, Tensor] = {}

    def take(p: Tensor) -> None:
        assert p.grad is not None
        found[id(p)] = p.grad
        p.grad = None

    hooks = [p.register_post_accumulate_grad_hook(take) for p in model.parameters()]
    loss(model).backward()
    for hook in hooks:
        hook.remove()
    assert all(p.grad is None for p in model.parameters())
    return [found[id(p)] for p in model.parameters()]


ROUTES: dict[str, Callable[[Any], list[Tensor]]] = {
    "autograd.grad": by_grad,
    "backward(inputs)": by_inputs,
    "torch.func": by_func,
    "hooks": by_hooks,
}


@pytest.mark.parametrize(
    ("route", "granularity"), some_of(itertools.product(ROUTES, KINDS), 3)
)
def test_exact_or_told(route: str, granularity: str) -> None:
    sparse = sparse_mlp(granularity)
    loss(sparse).backward()
    wanted = [p.grad for p in sparse.parameters()]
    sparse.zero_grad()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = ROUTES[route](sparse)
    pairs = zip(found, wanted, strict=True)
    exact = all(torch.allclose(one, other, atol=1e-7) for one, other in pairs)
    assert exact == (granularity == "2:4")  # whose groups share nothing
    assert exact or any(MISSING in str(one.message) for one in told)


def call_with(model: Any, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Gradients of tensors in the place of the model's parameters, or behind them."""
    leaves = {
        name: p.detach().clone().requires_grad_()
        for name, p in model.named_parameters()
    }
    given = {name: change(leaf) for name, leaf in leaves.items()}
    out: Tensor = torch.func.functional_call(model, given, X)
    out.square().mean().backward()
    assert all(p.grad is None for p in model.parameters())
    return [leaf.grad for leaf in leaves.values() if leaf.grad is not None]


@pytest.mark.parametrize("granularity", KINDS)
def test_tensors_in_the_place_of_parameters(granularity: str) -> None:
    sparse = sparse_mlp(granularity)
    loss(sparse).backward()
    wanted = [p.grad for p in sparse.parameters()]
    sparse.zero_grad()
    for one, other in zip(call_with(sparse, lambda leaf: leaf), wanted, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.warns(UserWarning, match=MISSING):
        call_with(sparse, lambda leaf: leaf * 1.0)
    loss(sparse).backward()
    for p, other in zip(sparse.parameters(), wanted, strict=True):
        assert torch.equal(p.grad, other)


def test_two_tensors_in_one_place_are_told() -> None:
    sparse = sparse_mlp()
    leaves = {
        n: p.detach().clone().requires_grad_() for n, p in sparse.named_parameters()
    }
    both = loss(sparse) + torch.func.functional_call(sparse, leaves, X).square().mean()
    with pytest.warns(UserWarning, match=MISSING):
        both.backward()


@DYNAMO
@pytest.mark.parametrize("granularity", ["unstructured", "block:2x4"])
@pytest.mark.parametrize("route", [by_grad, by_inputs])
def test_compiled_is_told_too(route: Any, granularity: str) -> None:
    torch._dynamo.reset()
    sparse = sparse_mlp(granularity)
    compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
    with pytest.warns(UserWarning, match=MISSING):
        route(compiled)
    sparse.zero_grad()
    loss(compiled).backward()  # warnings are errors
    found = [p.grad.clone() for p in sparse.parameters()]
    sparse.zero_grad()
    loss(sparse).backward()
    for one, other in zip(found, sparse.parameters(), strict=True):
        torch.testing.assert_close(one, other.grad)
    torch._dynamo.reset()


@pytest.mark.parametrize("route", [by_grad, by_inputs])
def test_masks_that_will_grow_say_what_they_do_not_see(route: Any) -> None:
    options = {"policy": "rigl", "total_steps": 8, "update_every": 1}
    sparse = sparse_mlp(beta=10.0, **options)
    masks = sparsefx.masks(sparse)
    loss(sparse).backward()
    wanted = [p.grad for p in sparse.parameters()]
    sparse.zero_grad()
    with pytest.warns(UserWarning, match="next growth of the masks does not see"):
        found = route(sparse)
    for (name, p), grad, other in zip(
        sparse.named_parameters(), found, wanted, strict=True
    ):
        torch.testing.assert_close(grad, other)
        if name in masks:
            assert not grad[~masks[name]].any(), name
        p.grad = None
    leaf = call_with(sparse, lambda leaf: leaf)
    for grad, other in zip(leaf, wanted, strict=True):
        torch.testing.assert_close(grad, other)


def test_scores_of_units_do_not_see_transforms() -> None:
    torch.manual_seed(0)
    options = {"budget": {"macs": 0.6}, "total_steps": 10, "example_inputs": (X,)}
    sparse = sparsefx.transform(models.mlp(), "svite_units", **options)
    loss(sparse).backward()
    wanted = [p.grad for p in sparse.parameters()]
    with pytest.warns(UserWarning, match="units' scores do not see this gradient"):
        found = by_func(sparse)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    plain = sparsefx.transform(models.mlp(), "units", **options)
    by_func(plain)  # has no scores to miss


@pytest.mark.parametrize("route", ROUTES)
def test_nothing_is_missing_where_masks_stand(route: str) -> None:
    sparse = standing()
    loss(sparse).backward()
    wanted = [p.grad for p in sparse.parameters()]
    sparse.zero_grad()
    found = ROUTES[route](sparse)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_whole_pass_says_nothing() -> None:
    sparse = sparse_mlp()
    loss(sparse).backward()
    loss(sparse).backward(create_graph=False)
    copied = copy.deepcopy(sparse)
    loss(copied).backward()


def test_gradients_of_inputs_alone_are_exact() -> None:
    """A penalty on them too: masks are constants of the inputs."""
    sparse, x = sparse_mlp(), X.clone().requires_grad_()
    (found,) = torch.autograd.grad(sparse(x).square().sum(), x, create_graph=True)
    found.square().sum().backward()
    assert all(p.grad is not None for n, p in sparse.named_parameters() if "w" in n)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
@pytest.mark.parametrize("granularity", ["unstructured", "channel"])
def test_second_derivatives_are_refused(granularity: str) -> None:
    sparse = sparse_mlp(granularity)
    weight = sparse.get_parameter("0.weight")
    loss(sparse).backward(create_graph=True)
    with pytest.raises(sparsefx.MaskError, match="cannot be differentiated again"):
        weight.grad.square().sum().backward()
    sparse.zero_grad()


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_second_derivatives_are_exact_where_masks_stand() -> None:
    sparse = standing().double()
    dense = sparsefx.finalize(copy.deepcopy(sparse))
    mask = sparsefx.masks(sparse)["0.weight"]
    results = []
    for model in (sparse, dense):
        weight = model.get_parameter("0.weight")
        value = model(X.double()).square().mean()
        (first,) = torch.autograd.grad(value, weight, create_graph=True)
        (second,) = torch.autograd.grad((first * mask).square().sum(), weight)
        results.append(second * mask)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("policy", ["units", "svite_units"])
def test_units_under_create_graph(policy: str) -> None:
    torch.manual_seed(0)
    x = X.clone().requires_grad_()
    sparse = sparsefx.transform(
        models.mlp(), policy, example_inputs=(x,), budget={"macs": 0.6}, total_steps=10
    )
    for _ in range(2):
        (g,) = torch.autograd.grad(sparse(x).sum(), x, create_graph=True)
        g.square().sum().backward()
        sparsefx.step(sparse, optimizer=torch.optim.SGD(sparse.parameters(), 0.1))
    copy.deepcopy(sparse)


def test_warnings_name_the_way_out() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        by_grad(sparse_mlp())
    assert len(told) >= 1
    assert "loss.backward()" in str(told[0].message)
