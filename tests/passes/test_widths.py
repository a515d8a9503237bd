"""Widths are followed through any network; kept numbers are what is shared."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx
from sparsefx.passes import SparseWide
from sparsefx.passes.iso_flop.record import record_of
from sparsefx.passes.widths.axes import Axes
from tests.passes.rewritten import graph_of, slope


class Toy(nn.Module):
    """Residual, depthwise, 1x1, concatenation, flatten: five groups of channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.depth = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.a, self.b = nn.Conv2d(16, 24, 1), nn.Conv2d(16, 8, 1)
        self.mix = nn.Conv2d(32, 32, 3, 2, 1)
        self.fc, self.head = nn.Linear(32 * 16, 40), nn.Linear(40, 10)

    def forward(self, x):
        x = self.stem(x)
        x = F.relu(x + self.conv(x))
        x = self.depth(x)
        x = torch.cat([self.a(x), self.b(x)], 1)
        x = F.relu(self.mix(x))
        return self.head(F.relu(self.fc(x.view(x.size(0), 32 * 16))))


def test_the_five_widths_of_the_dossier() -> None:
    net, x = Toy(), torch.randn(2, 3, 8, 8)
    graph = graph_of(net, x)
    found = SparseWide(density=0.5)(graph)
    shapes = {n: tuple(p.shape) for n, p in found.named_parameters() if p.ndim > 1}
    assert [shapes[n][0] for n in ("stem.weight", "a.weight", "b.weight", "mix.weight",
                                   "fc.weight")] == [23, 34, 11, 45, 57]  # fmt: skip
    factor = {
        name: torch.Size(shape).numel() / net.get_parameter(name).numel()
        for name, shape in shapes.items()
    }
    assert [round(factor[f"{n}.weight"], 2) for n in
            ("conv", "stem", "depth", "mix", "fc", "head")] == [
                2.07, 1.44, 1.44, 1.98, 2.0, 1.43]  # fmt: skip
    assert found(x).shape == (2, 10)
    assert "view" in found.code
    for density in (0.5, 0.25, 0.1):
        record = record_of(SparseWide(density=density, iso="maskable")(graph))
        assert record.macs["after"] == record.macs["before"]
        assert set(record.kept) == {
            f"{n}.weight" for n in ("conv", "a", "b", "mix", "fc")
        }


class Shuffled(nn.Module):
    """Units that shuffle again and again, their halves of an odd width."""

    def __init__(self, half=3, units=3):
        super().__init__()
        self.stem = nn.Conv2d(3, 2 * half, 1)
        self.units = nn.ModuleList(nn.Conv2d(half, half, 1) for _ in range(units))
        self.head = nn.Linear(2 * half, 5)

    def forward(self, x):
        x = self.stem(x)
        for unit in self.units:
            kept, changed = x.chunk(2, dim=1)
            x = torch.cat([kept, F.relu(unit(changed))], 1)
            b, c, h, w = x.shape
            x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous()
            x = x.view(b, c, h, w)
        return self.head(x.mean((2, 3)))


def test_channels_shuffled_again_and_again() -> None:
    net, x = Shuffled(), torch.randn(2, 3, 4, 4)
    graph = graph_of(net, x)
    for density, half in ((0.25, 6), (0.1, 9)):
        found = SparseWide(density=density)(graph)
        record = record_of(found)
        assert record.left == {}
        assert record.macs["after"] == record.macs["before"]
        for i in range(3):
            assert found.get_parameter(f"units.{i}.weight").shape[:2] == (half, half)
        assert found(x).shape == (2, 5)
    # which channels are in a half must be known to keep the given weights
    with pytest.raises(sparsefx.PolicyError, match="inside of a channel"):
        SparseWide(density=0.25, init="keep")(graph)


def test_what_no_rule_knows_is_held_or_refused() -> None:
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.c(F.relu(self.b(torch.sort(self.a(x), -1).values)))

    graph = graph_of(Odd(), torch.randn(3, 4))
    found = SparseWide(density=0.25)(graph)
    assert found.get_parameter("a.weight").shape == (8, 4)
    assert found.get_parameter("b.weight").shape == (16, 8)
    (reason,) = record_of(found).left.values()
    assert "sort" in reason
    with pytest.raises(sparsefx.CaptureError, match="sort"):
        SparseWide(density=0.25, strict=True)(graph)
    single = graph_of(nn.Linear(4, 4), torch.randn(2, 4))
    with pytest.raises(sparsefx.PolicyError, match="grow"):
        SparseWide(density=0.25)(single)


class Random(nn.Module):
    """A small convolutional network drawn at random."""

    def __init__(self, plan, widths):
        super().__init__()
        self.plan, self.layers = plan, nn.ModuleList()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        width = widths[0]
        for kind, new in zip(plan, widths[1:], strict=True):
            if kind == "conv":
                self.layers.append(nn.Conv2d(width, new, 3, padding=1))
                width = new
            elif kind == "add":
                self.layers.append(nn.Conv2d(width, width, 1))
            elif kind == "depthwise":
                self.layers.append(nn.Conv2d(width, width, 3, padding=1, groups=width))
            elif kind == "grouped":
                self.layers.append(nn.Conv2d(width, width, 1, groups=2))
            elif kind == "concat":
                self.layers.append(nn.Conv2d(width, new, 1))
                width += new
            elif kind == "norm":
                self.layers.append(nn.GroupNorm(2, width))
            elif kind == "gate":
                self.layers.append(nn.Conv2d(width, width, 1))
            else:
                self.layers.append(nn.BatchNorm2d(width))
        self.width = width
        self.fc = nn.Linear(width * 16, 5)

    def forward(self, x):
        x = self.stem(x)
        for kind, layer in zip(self.plan, self.layers, strict=True):
            if kind == "add":
                x = F.relu(x + layer(x))
            elif kind == "concat":
                x = torch.cat([x, layer(x)], 1)
            elif kind == "gate":
                x = x * layer(x.mean((2, 3), keepdim=True)).sigmoid()
            elif kind == "shuffle":
                b, c, h, w = x.shape
                x = (
                    layer(x)
                    .view(b, 2, c // 2, h, w)
                    .transpose(1, 2)
                    .reshape(b, c, h, w)
                )
            elif kind == "halves":
                a, b = layer(x).chunk(2, 1)
                x = torch.cat([b, a], 1)
            elif kind == "tokens":
                b, c, h, w = x.shape
                x = layer(x).flatten(2).transpose(1, 2)
                x = x.transpose(1, 2).reshape(b, c, h, w)
            else:
                x = layer(x)
        return self.fc(x.reshape(x.shape[0], self.width * 16))


KINDS = ("conv", "add", "depthwise", "grouped", "concat", "norm", "gate", "shuffle",
         "halves", "tokens")  # fmt: skip


@settings(max_examples=6)
@given(st.data())
def test_random_networks_have_the_slopes_of_their_outputs(data: st.DataObject) -> None:
    plan = data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    widths = [4 * data.draw(st.integers(1, 4)) for _ in range(len(plan) + 1)]
    net, x = Random(plan, widths), torch.randn(2, 3, 4, 4)
    density = data.draw(st.sampled_from([0.5, 0.25, 0.1]))
    found = SparseWide(density=density)(graph_of(net, x))
    record = record_of(found)
    assert record.macs["after"] == record.macs["before"]
    assert record.left == {}
    assert found(x).shape == net(x).shape
    names = [name for name, _ in found.named_parameters()]
    by_gradient, by_values = slope(found, x, names)
    assert by_gradient == pytest.approx(by_values, rel=1e-4, abs=1e-7)


def test_axes_solve_for_multiples() -> None:
    axes = Axes()
    wide, heads = axes.group(12), axes.group(4)
    axes.equal(wide, axes.copies(heads, 3))
    assert axes.sizes(wide) == [4, 4, 4]
    tall = axes.group(6)
    axes.equal(axes.spread(tall, 2), axes.spread(heads, 3))
    (group, repeat), *_ = axes.found(heads)
    assert (axes.size_of(group), repeat) == (2, 2)
    assert axes.width(wide, {group: 3}) == 18
    assert axes.width(tall, {group: 3}) == 9
    assert axes.hold(tall, "") == ((-1, 6),)
    assert not axes.live(wide)
