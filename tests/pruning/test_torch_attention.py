"""Projections of torch's own attention are fitted like other layers."""

import torch
from torch import nn

import sparsefx
from tests.pruning import nets


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)

    def forward(self, x):
        return self.layer(x[None])


def test_torchs_own_attention_is_looked_into() -> None:
    torch.manual_seed(0)
    net, data = Attention(), nets.batches()
    found = {
        method: sparsefx.prune(net, data, budget=0.5, method=method, held_out=0).report
        for method in ("magnitude", "admm")
    }
    assert found["admm"].change < 0.5 * found["magnitude"].change
    for name in ("in_proj_weight", "out_proj.weight"):
        assert found["admm"].fitted[f"layer.self_attn.{name}"].method == "admm"
