"""What is run to compare a graph with its module."""

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.tracing import verify


class Net(nn.Module):
    """Takes batches of whole multiples only."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor and x.shape[0] % self.multiple:
            raise ValueError("no such batch")
        return self.layer(x)


@pytest.mark.parametrize(
    ("multiple", "batch", "trained"),
    [(1, 32, 2), (1, 2, 3), (1, 1, 3), (4, 8, 8)],
    ids=["few rows", "other than the example's", "one row", "what it takes"],
)
def test_training_is_compared_on_few_rows(
    multiple: int, batch: int, trained: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    outcome = verify._outcome

    def noted(run, root, args, kwargs, training, call):
        found = outcome(run, root, args, kwargs, training, call)
        seen.append((training, len(args[0])))
        return found

    monkeypatch.setattr(verify, "_outcome", noted)
    found = sparsefx.capture(Net(multiple), (torch.randn(batch, 4),))
    assert found.whole
    assert [rows for training, rows in seen if training] == [trained] * 2
    whole = max(batch, 2)
    assert {rows for training, rows in seen if not training} == {whole} | (
        {1} if multiple == 1 else set()
    )


@pytest.mark.parametrize("multiple", [1, 4])
def test_what_differs_in_training_alone_is_found(
    multiple: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = verify._outcome

    def wrong(run, root, args, kwargs, training, call):
        outputs, gradients, buffers = outcome(run, root, args, kwargs, training, call)
        if training and run != root.forward:
            gradients[0] += 1
        return outputs, gradients, buffers

    monkeypatch.setattr(verify, "_outcome", wrong)
    found = sparsefx.capture(Net(multiple), (torch.randn(8, 4),))
    assert not found.whole
    assert "gradients differ in train mode" in found.reasons[""]
