"""A model runs, and nothing of it is left."""

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.tracing.preserve import preserved


class Grows(nn.Module):
    """A buffer that its first call makes larger, in place or by another one."""

    def __init__(self, rebinds: bool) -> None:
        super().__init__()
        self.fc, self.rebinds = nn.Linear(4, 4), rebinds
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.seen.numel() == 0:
            if self.rebinds:
                self.seen = torch.full((4,), 2.0)
            else:
                self.seen.resize_(4).fill_(2.0)
        return self.fc(x) + self.seen


@pytest.mark.parametrize("rebinds", [False, True])
def test_buffers_that_grow_are_small_again(rebinds: bool) -> None:
    model, x = Grows(rebinds), torch.randn(2, 4)
    with preserved(model):
        model(x)
        assert model.seen.numel() == 4
    assert model.seen.numel() == 0


@pytest.mark.parametrize("rebinds", [False, True])
def test_models_whose_buffers_grow_are_transformed(rebinds: bool) -> None:
    model, x = Grows(rebinds), torch.randn(2, 4)
    sparse = sparsefx.transform(model, example_inputs=(x,), budget={"macs": 0.5})
    assert model.seen.numel() == 0
    dense = sparsefx.finalize(sparse)
    for _ in range(2):  # before its buffer is there, and after
        torch.testing.assert_close(sparse(x), dense(x))
    weight = dense.fc.weight
    torch.testing.assert_close(dense(x), x @ weight.T + dense.fc.bias + 2)


def test_a_buffer_that_shrinks_is_whole_again() -> None:
    norm = nn.BatchNorm1d(4)
    norm.running_mean.fill_(3.0)
    with preserved(norm):
        norm.running_mean.resize_(1).zero_()
    assert norm.running_mean.tolist() == [3.0] * 4
