"""Small decoders of text: those of GPT-2 and Llama."""

import torch
import torch.nn.functional as F
from torch import nn


class Conv1D(nn.Module):
    """GPT-2's linear layer, its weight the other way round."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        size = (*x.shape[:-1], self.bias.shape[0])
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size)


class GPT2(nn.Module):
    """Tied embedding, split heads, causal mask from a buffer."""

    def __init__(self, vocabulary=40, dim=24, heads=3, length=8, depth=1):
        super().__init__()
        self.heads, self.dim = heads, dim
        self.wte, self.wpe = nn.Embedding(vocabulary, dim), nn.Embedding(length, dim)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln1": nn.LayerNorm(dim),
                    "attn": Conv1D(3 * dim, dim),
                    "proj": Conv1D(dim, dim),
                    "ln2": nn.LayerNorm(dim),
                    "fc": Conv1D(4 * dim, dim),
                    "out": Conv1D(dim, 4 * dim),
                }
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        self.head.weight = self.wte.weight
        mask = torch.ones(length, length).tril().bool().view(1, 1, length, length)
        self.register_buffer("causal", mask)

    def forward(self, index):
        b, t = index.shape
        x = self.wte(index) + self.wpe(torch.arange(t, device=index.device))
        for layer in self.layers:
            q, k, v = layer["attn"](layer["ln1"](x)).split(self.dim, dim=2)
            shape = (b, t, self.heads, self.dim // self.heads)
            q, k, v = (z.view(shape).transpose(1, 2) for z in (q, k, v))
            scores = q @ k.transpose(-1, -2) / (v.size(-1) ** 0.5)
            scores = scores.masked_fill(~self.causal[:, :, :t, :t], float("-inf"))
            y = scores.softmax(-1) @ v
            x = x + layer["proj"](y.transpose(1, 2).contiguous().view(b, t, self.dim))
            x = x + layer["out"](F.gelu(layer["fc"](layer["ln2"](x))))
        return self.head(self.norm(x))


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Llama(nn.Module):
    """Rotary positions, grouped queries, gated feed-forward, RMS norms."""

    def __init__(self, vocabulary=40, dim=24, heads=6, kv_heads=2, depth=1, length=8):
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, dim // heads
        self.embed = nn.Embedding(vocabulary, dim)
        kv = kv_heads * self.size
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln1": RMSNorm(dim),
                    "q": nn.Linear(dim, dim, bias=False),
                    "k": nn.Linear(dim, kv, bias=False),
                    "v": nn.Linear(dim, kv, bias=False),
                    "o": nn.Linear(dim, dim, bias=False),
                    "ln2": RMSNorm(dim),
                    "gate": nn.Linear(dim, 40, bias=False),
                    "up": nn.Linear(dim, 40, bias=False),
                    "down": nn.Linear(40, dim, bias=False),
                }
            )
            for _ in range(depth)
        )
        self.norm, self.head = RMSNorm(dim), nn.Linear(dim, vocabulary, bias=False)
        angles = torch.outer(
            torch.arange(length), 10.0 ** -torch.arange(self.size // 2)
        )
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos())
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin())

    def rotate(self, x):
        half = x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
        t = x.shape[-2]
        return x * self.cos[:t] + turned * self.sin[:t]

    def forward(self, index):
        b, t = index.shape
        x = self.embed(index)
        for layer in self.layers:
            y = layer["ln1"](x)
            q = layer["q"](y).view(b, t, self.heads, self.size).transpose(1, 2)
            k = layer["k"](y).view(b, t, self.kv_heads, self.size).transpose(1, 2)
            v = layer["v"](y).view(b, t, self.kv_heads, self.size).transpose(1, 2)
            q, k = self.rotate(q), self.rotate(k)
            copies = self.heads // self.kv_heads
            k, v = (
                z[:, :, None]
                .expand(b, self.kv_heads, copies, t, self.size)
                .reshape(b, self.heads, t, self.size)
                for z in (k, v)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + layer["o"](y.transpose(1, 2).reshape(b, t, -1))
            y = layer["ln2"](x)
            x = x + layer["down"](F.silu(layer["gate"](y)) * layer["up"](y))
        return self.head(self.norm(x))
