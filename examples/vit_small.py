"""DeiT-Small, from dense to small: tokens and units under one budget, then weights.

1. `SelectTokens` puts a learned choice of tokens in front of the first block;
2. the policy `svite_units` trains half of the multiply-accumulates away, head by head
   and neuron by neuron, and `ShrinkUnits` cuts them out;
3. the policy `svite` makes the small model's weights sparse as well.

Random images stand in for data, so that it runs anywhere; put your own loader in.
The accounts are those of one image of 224 x 224, attention products included.

    python examples/vit_small.py --steps 20
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx
from sparsefx.passes import SelectTokens, ShrinkUnits
from sparsefx.passes.graphs.standalone_graph import plain_graph
from sparsefx.passes.tokens.token_scorer import anneal


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        parts = self.qkv(x).reshape(b, n, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, width))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """DeiT without distillation; Tiny, Small and Base have 3, 6 and 12 heads of 64."""

    def __init__(self, heads: int = 6, depth: int = 12, side: int = 224) -> None:
        super().__init__()
        width = 64 * heads
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        count = (side // 16) ** 2 + 1
        self.position = nn.Parameter(torch.randn(1, count, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


def seconds(model: nn.Module, x: Tensor, repeats: int = 5) -> float:
    """The median time of a forward call."""
    spent = []
    with torch.no_grad():
        for _ in range(repeats):
            start = time.perf_counter()
            model(x)
            spent.append(time.perf_counter() - start)
    return sorted(spent)[repeats // 2]


def train(sparse: nn.Module, steps: int, side: int) -> None:
    optimizer = torch.optim.AdamW(sparse.parameters(), 5e-4, weight_decay=0.05)
    for step in range(steps):
        anneal(sparse, step / max(steps - 1, 1))
        images, labels = torch.randn(4, 3, side, side), torch.randint(0, 1000, (4,))
        optimizer.zero_grad()
        F.cross_entropy(sparse(images), labels).backward()
        optimizer.step()
        sparsefx.step(sparse)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=6, help="3, 6 or 12")
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--side", type=int, default=224, help="pixels")
    parser.add_argument("--steps", type=int, default=10, help="for units, then weights")
    parser.add_argument("--keep", type=float, default=0.95, help="share of the tokens")
    parser.add_argument("--budget", type=float, default=0.5, help="share of the MACs")
    options = parser.parse_args()
    torch.manual_seed(0)
    side, example = options.side, (torch.randn(1, 3, options.side, options.side),)
    model = Vit(options.heads, options.depth, side)
    dense = sparsefx.costs(model, example).totals()["macs"]["total"]
    print(f"dense: {dense / 1e9:.4f} GMACs, {seconds(model, *example):.3f} s an image")

    graph = sparsefx.capture(model, example).graphs[""]
    SelectTokens("blocks.0", options.keep)(graph)
    short = plain_graph(graph.graph, graph, lambda name, value: value)
    after = sparsefx.costs(short, example).totals()["macs"]["total"]
    print(f"{options.keep:.0%} of the tokens: {after / 1e9:.4f} GMACs")

    budget = {"macs": f"{options.budget * dense / 1e9:.6f} GMACs"}
    schedule = {"total_steps": options.steps, "update_every": 2}
    units = sparsefx.transform(
        short, "svite_units", budget=budget, example_inputs=example, **schedule
    )
    train(units, options.steps, side)
    cut = sparsefx.finalize(units).eval()
    small = ShrinkUnits()(sparsefx.capture(cut, example).graphs[":eval"]).eval()
    left = sparsefx.costs(small, example).totals()["macs"]["total"]
    error = float((small(*example) - cut(*example)).abs().max().detach())
    print(
        f"units cut: {left / 1e9:.4f} GMACs, {1 - left / dense:.2%} saved, "
        f"{seconds(small, *example):.3f} s an image, differs by {error:.1e}"
    )

    weights = sparsefx.transform(
        small, "svite", budget=0.5, example_inputs=example, **schedule
    )
    train(weights, options.steps, side)
    totals = sparsefx.report(weights).totals["macs"]
    final = totals.kept + totals.fixed
    print(f"and sparse: {final / 1e9:.4f} GMACs, {1 - final / dense:.2%} saved")


if __name__ == "__main__":
    main()
