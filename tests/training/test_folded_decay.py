"""Decay of products of factors: what the function that they compute weighs."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx
from sparsefx.errors import MaskError
from sparsefx.training.folded_decay import folded_decay

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 24), nn.Linear(24, 24)), (3, 4)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 12, 3, 2, 1)),
        (2, 2, 6, 6),
    ),
    "transposed": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.ConvTranspose2d(8, 12, 3, 2)),
        (2, 2, 4, 4),
    ),
}


def dense_weights(sparse: nn.Module, doped: bool) -> list[Tensor]:
    """Each replaced layer's weight, factors multiplied as their convolutions do."""
    found = []
    for layer in (sparse.get_submodule("0"), sparse.get_submodule("1")):
        if "factor_in" not in dict(layer.named_children()):
            continue
        first, second = layer.factor_in.weight, layer.factor_out.weight
        if first.ndim == 2:
            made = F.linear(F.linear(torch.eye(first.shape[1]), first), second).mT
        elif first.shape[2] == 1 < second.shape[2]:  # of a transposed convolution
            unit = torch.eye(first.shape[1])[..., None, None]
            made = F.conv_transpose2d(F.conv2d(unit, first), second)
        else:
            made = torch.einsum("od,dikl->oikl", second[..., 0, 0], first)
        found.append((made + layer.weight if doped else made).detach())
    return found


@pytest.mark.parametrize("member", ["sparse_factorized", "sparse_doped"])
@pytest.mark.parametrize("kind", NETS)
def test_the_penalty_is_that_of_the_folded_weights(member: str, kind: str) -> None:
    torch.manual_seed(0)
    make, shape = NETS[kind]
    x = torch.randn(shape)
    sparse = sparsefx.transform(make(), member, example_inputs=(x,), total_steps=10)
    products = dense_weights(sparse, member == "sparse_doped")
    assert products
    wanted = sum(float(made.square().sum()) for made in products)
    penalty = folded_decay(sparse)
    assert float(penalty.detach()) == pytest.approx(wanted, rel=1e-5)
    penalty.backward()
    named = dict(sparse.named_parameters())
    for name, mask in sparsefx.masks(sparse).items():
        grad = named[name].grad
        if grad is not None:
            assert not grad[~mask].any()
    assert any(p.grad is not None and bool(p.grad.any()) for p in named.values())


def test_models_without_factors_are_refused() -> None:
    make, shape = NETS["linear"]
    x = torch.randn(shape)
    wide = sparsefx.transform(make(), "sparse_wide", example_inputs=(x,))
    with pytest.raises(MaskError, match="sparse_wide makes no factors"):
        folded_decay(wide)
    with pytest.raises(MaskError, match="was not rewritten"):
        folded_decay(make())
