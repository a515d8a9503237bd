"""Small nets and batches for the tests of pruning."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))
    return net.to(dtype)


def batches(count: int = 5, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Inputs that are correlated, so that weights can stand in for each other."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.randn(12, 12, generator=generator, dtype=dtype)
    rows = [torch.randn(20, 12, generator=generator, dtype=dtype) for _ in range(count)]
    return [x @ mix for x in rows]


class Tokens(nn.Module):
    """An encoder of tokens whose padding must not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        h = self.embed(input_ids)
        h = h + self.down(F.gelu(self.up(h)))
        m = attention_mask[..., None].to(h)
        return self.head((h * m).sum(1) / m.sum(1))


def sentences(padding: int = 0) -> list[dict[str, Tensor]]:
    """Token batches of several lengths; ``padding`` is the token that fills them."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for length in (5, 7, 7, 9):
        ids = torch.randint(1, 20, (6, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[::2, length - 2 :] = 0
        found.append(
            {
                "input_ids": torch.where(mask.bool(), ids, padding),
                "attention_mask": mask,
            }
        )
    return found


class Convs(nn.Module):
    """Convolutions in groups, a depthwise and a strided one, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, stride=2, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, groups=8, padding="same")
        self.mix = nn.Conv2d(8, 8, 1, groups=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.mix(F.relu(self.depth(F.relu(self.stem(x))))))
        return self.head(h.mean((2, 3)))


def images(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(6, 2, 10, 10, generator=generator) for _ in range(count)]
    return [x.cumsum(-1).cumsum(-2) / 5 for x in found]
