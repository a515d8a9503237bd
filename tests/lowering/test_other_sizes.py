"""A model lowered at some sizes takes every call that the dense model takes."""

import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsefx
from tests.lowering.thin_models import Block, thinned


class Images(nn.Module):
    """A convolutional net of any image size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.c = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.a(x)))
        x = functional.relu(self.c(functional.relu(self.b(x))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class ViT(nn.Module):
    """Its places are stretched to the image's size, as timm's are."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.place = nn.Parameter(torch.randn(1, 32, 4, 4))
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)
        size = x.shape[2:]
        x = x + functional.interpolate(self.place, size=size, mode="bilinear")
        out: Tensor = self.block(x.flatten(2).transpose(1, 2))
        return out


CASES = {
    "images": (Images, (3, 12, 12), [(3, 12, 12), (3, 17, 9), (3, 1, 1)]),
    "vit": (ViT, (3, 16, 16), [(3, 16, 16), (3, 24, 20), (3, 4, 4)]),
    "tokens": (Block, (50, 32), [(50, 32), (51, 32), (1, 32), (300, 32)]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", ["csr", "removal"])
def test_other_sizes(case: str, target: str) -> None:
    kind, size, others = CASES[case]
    torch.manual_seed(0)
    model = thinned(kind())
    with torch.no_grad():  # lines that removal finds
        for weight in model.parameters():
            if weight.ndim >= 2 and len(weight) > 8:
                weight[len(weight) // 2 :] = 0
    fast = sparsefx.lower(
        model, (torch.randn(2, *size),), target, compile=False, rounds=1
    )
    fast = pickle.loads(pickle.dumps(fast))
    with torch.no_grad():
        for other in others:
            for batch in (1, 2, 7):
                x = torch.randn(batch, *other)
                torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)


class Branching(nn.Module):
    """A batch of one runs other code."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y: Tensor = self.fc(x)
        y = y if scale is None else y * scale
        return y if len(x) > 1 else -y


@pytest.mark.parametrize("batch", [1, 3])
def test_a_graph_runs_only_the_calls_it_holds_for(batch: int) -> None:
    torch.manual_seed(0)
    model = thinned(Branching())
    fast = sparsefx.lower(
        model, (torch.randn(batch, 16),), "csr", compile=False, rounds=1
    )
    for rows in (1, 2, 3):
        x = torch.randn(rows, 16)
        torch.testing.assert_close(fast(x), model(x))
        scale = torch.randn(rows, 4)
        for call in ({"scale": scale}, {"scale": None}):
            torch.testing.assert_close(fast(x, **call), model(x, **call))


def held(state: Mapping[str, Tensor]) -> int:
    """Bytes of a module's tensors, each memory once."""
    storages = (t.untyped_storage() for t in state.values())
    found = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(found.values())


def test_all_plans_share_one_memory() -> None:
    x, model = torch.randn(2, 50, 32), thinned(Block(), density=0.05)
    fast = sparsefx.lower(model, (x,), "csr", compile=False, rounds=1)
    dense = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    kept = sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim > 1)
    assert (
        held(fast.state_dict()) < held(model.state_dict()) - 4 * dense + 8 * kept + 4096
    )
    stays = sparsefx.lower(model, (x,), "dense", compile=False, rounds=1)
    assert held(stays.state_dict()) == held(model.state_dict())
    weight = dict(stays.named_parameters())["module.fc1.weight"]
    assert weight.data_ptr() == model.fc1.weight.data_ptr()
    assert not weight.requires_grad
    assert model.fc1.weight.requires_grad


@pytest.mark.slow
def test_other_sizes_compiled() -> None:
    torch.manual_seed(0)
    model: Any = thinned(ViT())
    fast = sparsefx.lower(model, (torch.randn(2, 3, 16, 16),), "csr", rounds=1)
    for shape in [(2, 3, 16, 16), (2, 3, 24, 20), (1, 3, 20, 20), (3, 3, 12, 28)]:
        x = torch.randn(shape)
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
