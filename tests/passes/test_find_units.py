"""Units are found in every layout, with what they own and what they cost."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsefx.passes import find_units
from sparsefx.passes.units.unit_map import UnitGroup, UnitMap
from sparsefx.passes.units.unit_scores import magnitudes
from sparsefx.tracing.capture import capture
from tests.passes.unit_graphs import graph_of
from tests.unit_networks import NETWORKS, Beside, FusedAttention, Gelu, Residual


def found_in(name: str) -> UnitMap:
    return find_units(graph_of(NETWORKS[name]()))


def owned(group: UnitGroup, index: int) -> dict[tuple[str, int], list[int]]:
    """What one unit owns of each dimension."""
    found = {(s.name, s.dim): list(s.indices(index)) for s in group.tensors}
    return {key: value for key, value in found.items() if value}


def slices(units: UnitMap, group: str, index: int) -> dict[tuple[str, int], list[int]]:
    return owned(units.groups[group], index)


def test_heads_of_a_fused_layer() -> None:
    units = found_in("fused")
    assert {g.size for g in units.groups.values()} == {4, 24}
    rows = [4, 5, 6, 7, 20, 21, 22, 23, 36, 37, 38, 39]
    assert slices(units, "blocks.0.attention.proj.heads", 1) == {
        ("blocks.0.attention.qkv.weight", 0): rows,
        ("blocks.0.attention.qkv.bias", 0): rows,
        ("blocks.0.attention.proj.weight", 1): [4, 5, 6, 7],
    }
    assert slices(units, "blocks.1.mlp.fc2.neurons", 5) == {
        ("blocks.1.mlp.fc1.weight", 0): [5],
        ("blocks.1.mlp.fc1.bias", 0): [5],
        ("blocks.1.mlp.fc2.weight", 1): [5],
    }


def test_heads_of_an_interleaved_layer() -> None:
    found = slices(found_in("interleaved"), "blocks.0.attention.proj.heads", 1)
    assert found["blocks.0.attention.qkv.weight", 0] == list(range(12, 24))
    assert found["blocks.0.attention.proj.weight", 1] == [4, 5, 6, 7]


def test_heads_own_their_column_of_a_bias_table() -> None:
    found = slices(found_in("separate"), "blocks.0.attention.out.heads", 3)
    assert found["blocks.0.attention.table", 1] == [3]
    for name in "qkv":
        assert found[f"blocks.0.attention.{name}.weight", 0] == [12, 13, 14, 15]


def test_heads_of_products_written_as_sums() -> None:
    found = found_in("summed").groups["blocks.0.attention.proj.heads"]
    assert (found.size, found.kind) == (4, "heads")


def test_heads_that_share_keys_go_together() -> None:
    units = found_in("llama")
    found = slices(units, "blocks.0.attention.o.heads", 1)
    assert units.groups["blocks.0.attention.o.heads"].size == 2
    assert found["blocks.0.attention.q.weight", 0] == list(range(8, 16))
    assert found["blocks.0.attention.k.weight", 0] == [4, 5, 6, 7]
    assert units.groups["blocks.1.attention.o.heads"].size == 4
    gated = slices(units, "blocks.1.mlp.down.neurons", 2)
    assert gated["blocks.1.mlp.up.weight", 0] == [2, 26]


def test_channels_of_closed_dependencies() -> None:
    units = find_units(graph_of(Residual()))
    inner = next(g for g in units.groups.values() if g.size == 6)
    assert inner.kind == "channels"
    found = owned(inner, 4)
    assert found["conv1.weight", 0] == found["deep.weight", 0] == [4]
    assert found["norm1.running_var", 0] == found["conv2.weight", 1] == [4]
    stream = next(g for g in units.groups.values() if g.size == 8)
    found = owned(stream, 3)
    assert found["stem.weight", 0] == found["conv2.weight", 0] == [3]
    assert found["head.weight", 1] == [12, 13, 14, 15]


def test_channels_beside_others() -> None:
    groups = found_in("beside").groups
    assert groups["mix.channels"].size == 6
    assert owned(groups["mix.channels"], 5) == {
        ("conv.weight", 0): [5],
        ("conv.bias", 0): [5],
        ("mix.weight", 1): [5],
        ("scale", 0): [5],
    }
    tensors = {name: torch.ones_like(p) for name, p in Beside().named_parameters()}
    weights = magnitudes(groups["mix.channels"], tensors)
    assert weights.tolist() == [2 * 9 + 6 * 9 + 1] * 6


def test_heads_that_another_value_weighs_stay() -> None:
    """A mask of the inputs has no heads to cut; products of inputs make no heads."""

    class Weighed(FusedAttention):
        def forward(self, x: Tensor) -> Tensor:
            b, n, width = x.shape
            qkv = self.qkv(x).view(b, n, 3, self.heads, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
            mask = x.mean(-1)[:, None, None].expand(b, self.heads, n, n)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return self.proj(out.transpose(1, 2).reshape(b, n, width))

    class Mixed(Gelu):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc2((x @ x.mT) @ F.gelu(self.fc1(x)))

    x = torch.randn(2, 3, 8)
    assert not find_units(graph_of(Weighed(8, 4), x)).groups
    (neurons,) = find_units(graph_of(Mixed(8, 16), x)).groups.values()
    assert (neurons.size, neurons.kind) == (16, "neurons")


def test_units_behind_a_norm_of_the_inputs() -> None:
    """What a norm scales belongs to its parameters where nothing else computes it."""
    net = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    (neurons,) = find_units(graph_of(net, torch.randn(3, 4))).groups.values()
    assert {(s.name, s.dim) for s in neurons.tensors} == {
        ("1.weight", 0),
        ("1.bias", 0),
        ("3.weight", 1),
    }


def test_cost_of_a_unit() -> None:
    groups = found_in("fused").groups
    head, neuron = (
        groups["blocks.0.attention.proj.heads"],
        groups["blocks.0.mlp.fc2.neurons"],
    )
    batch, tokens, width, size = 3, 5, 16, 4
    projections = batch * tokens * width * size * 4
    products = 2 * batch * tokens * tokens * size
    assert head.macs == projections + products
    assert head.params == 4 * width * size + 3 * size
    assert neuron.macs == batch * tokens * width * 2
    assert neuron.params == 2 * width + 1


def test_a_norm_over_the_neurons_ties_them() -> None:
    class Normed(Gelu):
        def __init__(self) -> None:
            super().__init__(8, 16)
            self.norm = nn.LayerNorm(16)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc2(self.norm(self.fc1(x)))

    assert not find_units(graph_of(Normed(), torch.randn(2, 3, 8))).groups


def test_shared_layers_and_outputs_stay() -> None:
    class Open(Gelu):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.fc1(x)
            return self.fc2(hidden), hidden

    assert not find_units(graph_of(Open(8, 16), torch.randn(2, 3, 8))).groups


class Joined(nn.Module):
    """What the first layer makes meets the input, so that its units stay."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(F.relu(self.second(self.first(x) * x)))
        return out


def test_units_that_cannot_go_share_nothing() -> None:
    units = find_units(graph_of(Joined(), torch.ones(3, 8)))
    assert "first.weight" in units.refused
    (group,) = units.groups.values()
    assert group.params == 8 + 1 + 2
    assert group.macs == 3 * (8 + 2)


def test_two_units_that_meet_two_inputs_stay() -> None:
    """The inputs would have to go with them, and no weight computes those."""

    class Meets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(2, 2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) + x)

    found = find_units(capture(Meets(), (torch.randn(2),)).graphs[""])
    assert "no weight computes" in found.refused["first.weight"]
