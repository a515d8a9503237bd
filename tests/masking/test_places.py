"""A masked layer that is replaced, or loses its weight, is noticed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsefx

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


class Wrapper(nn.Module):
    """As adapters do it."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down, self.up = nn.Linear(6, 2), nn.Linear(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


def sparse_net(tied: bool = False, policy: str = "cost_budget") -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 6)))
    if tied:
        net[0].weight = net[1][1].weight
    return sparsefx.transform(
        net, policy, budget={"params": 0.5}, example_inputs=(X,), total_steps=4
    )


VERBS: dict[str, Callable[[Any], Any]] = {
    "finalize": sparsefx.finalize,
    "masks": sparsefx.masks,
    "report": sparsefx.report,
    "sites": sparsefx.sites,
    "step": lambda model: sparsefx.step(
        model, optimizer=torch.optim.SGD(model.parameters(), 0.1)
    ),
}


@pytest.mark.parametrize("policy", ["cost_budget", "rigl", "units"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_replaced_layer_is_refused(verb: str, policy: str) -> None:
    sparse = sparse_net(policy=policy)
    layer = sparse[1][1]
    sparse[1][1] = nn.Linear(6, 6)
    with pytest.raises(sparsefx.MaskError, match=r"'1\.1' is no longer the Linear"):
        VERBS[verb](sparse)
    sparse[1][1] = layer
    VERBS[verb](sparse)


def test_a_replaced_branch_is_refused() -> None:
    sparse = copy.deepcopy(sparse_net())
    sparse[1] = nn.Sequential(nn.ReLU(), nn.Linear(6, 6))
    with pytest.raises(sparsefx.MaskError, match=r"'1\.1' is no longer the Linear"):
        sparsefx.step(sparse)


def test_a_wrapped_layer_is_found() -> None:
    sparse = sparse_net()
    sparse[0] = Wrapper(sparse[0])
    sparse(X).sum().backward()
    assert sparsefx.step(sparse).step == 1
    final = sparsefx.finalize(sparse)
    assert type(final[0].base_layer) is nn.Linear
    torch.testing.assert_close(final(X), sparse(X))
    sparse[0] = nn.Linear(6, 6)
    with pytest.raises(sparsefx.MaskError, match="no longer the Linear"):
        sparsefx.report(sparse)


def test_a_weight_that_is_taken_away_is_told_of() -> None:
    sparse = sparse_net()
    with sparsefx.latent(sparse):
        torch.nn.utils.parametrizations.orthogonal(sparse[0])
    with pytest.raises(sparsefx.MaskError, match="has lost its parameter 'weight' to"):
        sparsefx.step(sparse)
    sparse = sparse_net()
    del sparse[1][1].weight
    with pytest.raises(sparsefx.MaskError, match=r"Linear '1\.1' has lost"):
        sparsefx.masks(sparse)


def test_tied_weights_stay_tied() -> None:
    sparse = sparse_net(tied=True)
    twin = nn.Parameter(torch.randn(6, 6))
    sparse[0].weight = twin
    with pytest.raises(
        sparsefx.MaskError, match=r"1\.1\.weight no longer is 0\.weight"
    ):
        sparsefx.step(sparse)
    sparse[1][1].weight = sparse[0].weight
    assert sparse[1][1].get_parameter("weight") is twin
    assert sparsefx.step(sparse).step == 1


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("policy", ["cost_budget", "units"])
def test_norms_on_top_are_refused(policy: str, norm: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    sparse = sparsefx.transform(net, policy, budget=0.6, example_inputs=(X,))
    before = sparsefx.masks(sparse)
    with pytest.raises(sparsefx.MaskError, match=r"before\s+sparsefx.transform"):
        getattr(nn.utils.parametrizations, norm)(sparse[2])
    after = sparsefx.masks(sparse)
    assert all(torch.equal(mask, after[name]) for name, mask in before.items())


def test_a_layer_that_only_produces_units_is_watched() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    sparse = sparsefx.transform(net, "units", budget=0.6, example_inputs=(X,))
    sparse[0] = nn.Linear(6, 8)
    with pytest.raises(sparsefx.MaskError, match="'0' is no longer the Linear"):
        sparsefx.step(sparse)
