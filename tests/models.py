"""Small models, each with one thing that is hard to record or to mask."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def mlp(width: int = 8, hidden: int = 16, out: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, out))


class ConvNet(nn.Module):
    """Convolution, batch norm, pooling, a view with the batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2)
        self.head = nn.Linear(6 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv1(x)))
        x = torch.tanh(self.conv2(x))
        return self.head(x.view(x.size(0), -1))


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.fc(x), 0.5, training=self.training)


class DropPath(nn.Module):
    """Drops whole samples while training; a leaf of the recording."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(1 - self.rate) / (1 - self.rate)


class WithDropPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.drop_path = nn.Linear(6, 6), DropPath()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.fc(x))


class DataDependent(nn.Module):
    """A branch on values at the root; both children can be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.sum() > 0 else self.b(self.a(x))


class Counting(nn.Module):
    """Writes attributes of every kind in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = self.seen + 1
        return self.fc(x)


class ManyInputs(nn.Module):
    """Keyword inputs, nested inputs, nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(
        self,
        parts: dict[str, Tensor],
        scale: float = 1.0,
        *,
        mask: Tensor | None = None,
    ) -> dict[str, object]:
        y = self.fc(parts["x"] + parts["y"]) * scale
        if mask is not None:
            y = y * mask[:, None]
        return {"out": y, "more": (y.sum(1), [y.shape[0], "name", None])}


class Shared(nn.Module):
    """One layer called twice, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(6, 6)
        self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, index: Tensor) -> Tensor:
        x = torch.tanh(self.twice(self.embed(index)))
        return self.head(self.twice(x))


class WithLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class StaticBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * int(x.shape[0])


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class CustomBackward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(_Doubled.apply(self.fc(x)))


class NoGradRegion(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.frozen(x)
        return self.head(x)


class HookedTensor(nn.Module):
    """A hook on an activation that scales its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        if y.requires_grad:
            y.register_hook(lambda grad: 3 * grad)
        return self.head(y)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = mlp(6, 8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = checkpoint(self.block, x, use_reentrant=False)
        return self.head(y)


class Attention(nn.Module):
    """A transformer in small: embedding, two layers, a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1)
        return self.head(self.encoder(x)[:, 0])
