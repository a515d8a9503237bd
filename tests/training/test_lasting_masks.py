"""Soft masks that stay at the freeze, as those of Spartan's authors do."""

from pathlib import Path
from typing import Any

import pytest
import torch

import sparsefx
from tests import models
from tests.policies.test_spartan import X, sparse_of

CUTS: dict[str, dict[str, Any]] = {
    "weights": {"budget": 0.3},
    "blocks": {"granularity": "block:2x4", "budget": 0.6},
    "2:4": {"granularity": "2:4", "budget": 0.8, "inclusive": False},
    "units": {"unit_density": 0.5, "budget": 0.3, "inclusive": False},
}


@pytest.mark.parametrize("name", CUTS)
def test_soft_masks_stay_at_the_freeze(name: str, tmp_path: Path) -> None:
    """Latent weights learn on under the masks of the freeze, with their gradient."""
    options = {"budget_of": "maskable", "total_steps": 10, **CUTS[name]}
    sparse = sparse_of("spartan_paper", **options)
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.5, momentum=0.9)

    def train(module, optimizer):
        module(X).square().mean().backward()
        optimizer.step()
        return sparsefx.step(module)

    for _ in range(8):
        optimizer.zero_grad()
        report = train(sparse, optimizer)
    names = list(models.mlp().state_dict())[::2]
    latent = {n: p for n, p in sparse.named_parameters() if n in names}
    assert report.frozen
    before = {n: p.detach().clone() for n, p in latent.items()}
    seen = {n: shown(sparse, n).detach().clone() for n in names}
    factors = {n: (seen[n] / before[n]).nan_to_num() for n in names}
    assert all(0 < float(f.max()) < 1 for f in factors.values())
    optimizer.zero_grad()
    value = sparse(X)
    plain = {n: s.clone().requires_grad_() for n, s in seen.items()}
    rest = {n: p.detach() for n, p in sparse.named_parameters() if n not in names}
    again = torch.func.functional_call(models.mlp(), rest | plain, (X,))
    torch.testing.assert_close(again, value)
    again.square().mean().backward()
    after = train(sparse, optimizer)
    masks = sparsefx.masks(sparse)
    for n, p in latent.items():
        torch.testing.assert_close(p.grad, plain[n].grad * factors[n] * masks[n])
        torch.testing.assert_close(shown(sparse, n), p * factors[n])
        assert not torch.equal(p, before[n])
    assert report.kept_mask_mean == pytest.approx(after.kept_mask_mean)
    assert after.kept_mask_mean < 1
    assert after.soft_cost == pytest.approx(report.soft_cost)
    sparsefx.save(sparse, tmp_path / "a.safetensors")
    twin = sparsefx.load(
        sparse_of("spartan_paper", **options), tmp_path / "a.safetensors"
    )
    final = sparsefx.finalize(sparse)
    for n in names:
        assert torch.equal(shown(twin, n), shown(sparse, n))
        assert torch.equal(final.get_parameter(n), shown(sparse, n))


def shown(sparse, name):
    """The weight that a layer sees."""
    path, _, attribute = name.rpartition(".")
    return getattr(sparse.get_submodule(path), attribute)
