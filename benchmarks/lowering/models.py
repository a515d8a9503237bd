"""Models for benchmarks/inference.py, in plain torch, with random weights."""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A pre-norm transformer block; ``post`` norms after the sum, as BERT does."""

    def __init__(self, width, heads, post=False):
        super().__init__()
        self.heads, self.post = heads, post
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def attend(self, x):
        batch, tokens, width = x.shape
        q, k, v = (
            part.view(batch, tokens, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        )
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x):
        if self.post:
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.fc2(functional.gelu(self.fc1(x))))
        x = x + self.attend(self.norm1(x))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """8 blocks of width 512 on 14 x 14 patches and a class token: 26 M parameters."""

    def __init__(self, width=512, depth=8, heads=8, classes=1000):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(0.02 * torch.randn(1, 197, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image):
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Encoder(nn.Module):
    """The shape of MiniLM: 6 BERT layers of width 384, mean of the tokens."""

    def __init__(self, width=384, depth=6, heads=12, words=30522):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, True) for _ in range(depth))

    def forward(self, ids):
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(places))
        for block in self.blocks:
            x = block(x)
        return functional.normalize(x.mean(1), dim=-1)


class Bottleneck(nn.Module):
    def __init__(self, inner, width, stride):
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(inner, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.norm3 = nn.BatchNorm2d(out)
        self.down = None
        if stride != 1 or inner != out:
            conv = nn.Conv2d(inner, out, 1, stride, bias=False)
            self.down = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x):
        y = functional.relu(self.norm1(self.conv1(x)))
        y = functional.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return functional.relu(y + (x if self.down is None else self.down(x)))


class ResNet50(nn.Module):
    def __init__(self, classes=1000):
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(64)
        blocks, inner = [], 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            width = 64 * 2**stage
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(Bottleneck(inner, width, stride))
                inner = 4 * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inner, classes)

    def forward(self, image):
        x = functional.relu(self.norm(self.conv(image)))
        x = self.blocks(functional.max_pool2d(x, 3, 2, 1))
        return self.head(x.mean((2, 3)))


class Decoder(nn.Module):
    """One new token of a GPT-like model of width 768, keys and values cached."""

    def __init__(self, width=768, depth=6, heads=12):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x, keys, values):
        for number, block in enumerate(self.blocks):
            batch, tokens, width = x.shape
            q, k, v = (
                part.view(batch, tokens, block.heads, -1).transpose(1, 2)
                for part in block.qkv(block.norm1(x)).chunk(3, -1)
            )
            k = torch.cat([keys[:, number], k], 2)
            v = torch.cat([values[:, number], v], 2)
            y = functional.scaled_dot_product_attention(q, k, v)
            x = x + block.proj(y.transpose(1, 2).reshape(batch, tokens, width))
            x = x + block.fc2(functional.gelu(block.fc1(block.norm2(x))))
        return self.norm(x)


def image(batch):
    return (torch.randn(batch, 3, 224, 224),)


def words(batch, tokens=128):
    return (torch.randint(0, 30522, (batch, tokens)),)


def cached(batch, tokens=128):
    cache = torch.randn(batch, 6, 12, tokens, 64)
    return torch.randn(batch, 1, 768), cache, cache.clone()


MODELS = {
    "vit": (ViT, image),
    "minilm": (Encoder, words),
    "resnet50": (ResNet50, image),
    "decoder": (Decoder, cached),
}
