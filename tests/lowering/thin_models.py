"""Models with random zeros in their weights."""

import torch
from torch import nn
from torch.nn import functional


def thinned(module, density=0.2, seed=0):
    """The module with random zeros in its weights."""
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim >= 2:
                weight *= torch.rand(weight.shape, generator=made) < density
    return module.eval()


class Block(nn.Module):
    """A transformer's block, small."""

    def __init__(self, width=32, heads=2):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width, bias=False)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.proj(y.reshape(batch, tokens, width))
        return x + self.fc2(functional.gelu(self.fc1(x)))
