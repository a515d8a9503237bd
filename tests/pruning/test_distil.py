"""Distillation on unlabelled batches: masks stay, outputs come nearer."""

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.errors import MaskError
from tests.pruning import nets


@pytest.mark.parametrize("make", [nets.mlp, nets.Tokens])
def test_it_comes_nearer_and_masks_stay(make) -> None:
    torch.manual_seed(0)
    net = make()
    data = nets.batches(10) if make is nets.mlp else nets.sentences()
    options = {"budget": {"macs": 0.3}, "exclude": ["embed"][: make is nets.Tokens]}
    first = sparsefx.prune(net, data, **options)
    second = sparsefx.prune(net, data, distill_steps=60, **options)
    assert second.report.change < first.report.change
    for name, mask in first.masks.items():
        assert torch.equal(mask, second.masks[name])
        weight = second.model.get_parameter(name)
        assert not weight[~mask].any()
        assert not torch.equal(weight, first.model.get_parameter(name))
    for one, two in zip(net.parameters(), second.model.parameters(), strict=True):
        assert one.requires_grad == two.requires_grad
        assert two.grad is None


class Sign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return self.fc(x).argmax(-1)


def test_outputs_without_a_gradient_are_refused() -> None:
    with pytest.raises(MaskError, match="step 0 of distillation"):
        sparsefx.prune(
            Sign(), nets.batches(), allocation="uniform", distill_steps=2, held_out=0
        )
