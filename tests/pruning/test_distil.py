"""Distillation on unlabelled batches: masks stay, outputs come nearer."""

import pytest
import torch
from torch import nn

import sparsefx
from sparsefx.errors import MaskError
from sparsefx.pruning.calibration import calibration
from sparsefx.pruning.damage import BY_KIND
from sparsefx.pruning.distil import distil
from sparsefx.pruning.fit import Options
from sparsefx.pruning.methods import METHODS
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


def test_the_dense_model_answers_once_where_answers_fit() -> None:
    found, runs = [], []
    for memory in (1e6, 20 * 8 * 4):  # of all batches, of one
        dense, pruned = nets.mlp(), nets.mlp()
        with torch.no_grad():
            pruned[0].weight[:, ::2] = 0.0
        mask = pruned[0].weight.detach().bool()
        runs.append([])
        dense.register_forward_hook(lambda *_: runs[-1].append(1))
        data = calibration(dense, nets.batches(3), None, 0, 0)
        options = Options(
            method=METHODS["admm"], damp=0.01, memory=memory, seed=0, damage=BY_KIND
        )
        distil(dense, pruned, {"0.weight": mask}, data, 12, options)
        found.append(pruned)
    assert len(runs[0]) == 3 < len(runs[1]) < 12
    for one, two in zip(found[0].parameters(), found[1].parameters(), strict=True):
        assert torch.equal(one, two)
