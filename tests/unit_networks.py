"""Small models whose heads, neurons and channels are laid out in different ways."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusedAttention(nn.Module):
    """Queries, keys and values from one layer: (3, heads, size) or (heads, 3, size)."""

    def __init__(self, width: int, heads: int, *, interleaved: bool = False) -> None:
        super().__init__()
        self.heads, self.interleaved = heads, interleaved
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        size = width // self.heads
        if self.interleaved:
            parts = self.qkv(x).reshape(b, n, self.heads, 3, size)
            q, k, v = parts.permute(3, 0, 2, 1, 4)
        else:
            parts = self.qkv(x).reshape(b, n, 3, self.heads, size)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, width))


class SeparateAttention(nn.Module):
    """Three layers, softmax written out, a bias table with a column a head."""

    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.table = nn.Parameter(torch.randn(2 * tokens - 1, heads))
        place = torch.arange(tokens)
        self.register_buffer("place", place[:, None] - place[None] + tokens - 1)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        size = width // self.heads
        q, k, v = (
            layer(x).view(b, n, self.heads, size).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        scores = (q * size**-0.5) @ k.transpose(-2, -1)
        bias = self.table[self.place.view(-1)].view(n, n, -1).permute(2, 0, 1)
        weights = (scores + bias.contiguous().unsqueeze(0)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, n, -1))


class SummedAttention(FusedAttention):
    """Products of queries, keys and values written as sums over letters."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).unbind(2)
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
        return self.proj(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))


class GroupedAttention(nn.Module):
    """Fewer keys and values than queries, no biases, rotated queries and keys."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.size, self.groups = width // heads, heads // shared
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, shared * self.size, bias=False)
        self.v = nn.Linear(width, shared * self.size, bias=False)
        self.o = nn.Linear(width, width, bias=False)

    def rotated(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[-2])[:, None] * torch.ones(self.size)
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat([-b, a], -1) * angle.sin()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (
            layer(x).view(b, n, -1, self.size).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        q, k = self.rotated(q), self.rotated(k)
        k, v = (y.repeat_interleave(self.groups, 1) for y in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(out.transpose(1, 2).reshape(b, n, -1))


class Conv1D(nn.Module):
    """A linear layer with its weight the other way round, as in GPT-2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight)
        return flat.view(*x.shape[:-1], -1)


class SplitQkv(nn.Module):
    """Queries, keys and values split off one Conv1D, then a causal mask."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width, self.size = width, width // heads
        self.c_attn, self.c_proj = Conv1D(width, 3 * width), Conv1D(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.view(*part.shape[:-1], -1, self.size).transpose(1, 2)
            for part in self.c_attn(x).split(self.width, dim=2)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(out.transpose(1, 2).contiguous().flatten(2))


class Gelu(nn.Module):
    """A neuron is a row, an activation, a column."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """A neuron is two rows, gate and value, from one layer or from two."""

    def __init__(self, width: int, hidden: int, *, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.up = nn.Linear(width, 2 * hidden if fused else hidden, bias=False)
        if not fused:
            self.gate = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.up(x).chunk(2, -1) if self.fused else (self.gate(x), self.up(x))
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, width: int, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), attention
        self.norm2, self.mlp = nn.LayerNorm(width), mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Patches by convolution, a class token, positions, blocks, a head."""

    def __init__(self, *blocks: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class Residual(nn.Module):
    """Two convolutions around which the input goes, and a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.conv2 = nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.conv2(self.deep(F.relu(self.norm1(self.conv1(x)))))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Beside(nn.Module):
    """Channels beside two that no unit owns, the last of them read by its place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.mix, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.conv(x)), x], 1)
        y = F.relu(self.mix(x * self.scale)).mean((2, 3))
        return self.head(y + x[:, -1].mean((1, 2))[:, None])


def vit(*, interleaved: bool = False) -> nn.Module:
    return Vit(
        *(
            Block(16, FusedAttention(16, 4, interleaved=interleaved), Gelu(16, 24))
            for _ in range(2)
        )
    )


NETWORKS = {
    "fused": vit,
    "interleaved": lambda: vit(interleaved=True),
    "separate": lambda: Vit(Block(16, SeparateAttention(16, 4, 5), Gelu(16, 24))),
    "summed": lambda: Vit(Block(16, SummedAttention(16, 4), Gelu(16, 24))),
    "llama": lambda: Vit(
        Block(16, GroupedAttention(16, 4, 2), SwiGlu(16, 24)),
        Block(16, GroupedAttention(16, 4, 4), SwiGlu(16, 24, fused=True)),
    ),
    "gpt2": lambda: Vit(Block(16, SplitQkv(16, 4), Gelu(16, 24))),
    "residual": Residual,
    "beside": Beside,
}


def images(batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, 2, 8, 8, generator=generator).to(dtype)


def awake(model: nn.Module) -> nn.Module:
    """The model with biases and running means that are not zero."""
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith(("bias", "running_mean")):
                value.normal_()
    return model
