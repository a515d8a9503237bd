import math

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import sparsefx
from sparsefx.errors import CaptureError
from sparsefx.masking.site import Site
from sparsefx.passes.annotate_costs import AnnotateCosts, cost_table
from sparsefx.passes.costs.cost_table import attention_macs, conv_uses, linear_uses
from sparsefx.passes.costs.symbolic_size import Amount


class Opened(fx.Tracer):
    def is_leaf_module(self, module, qualified_name):
        return False


class Values(fx.Interpreter):
    def run_node(self, node):
        node.meta["val"] = super().run_node(node)
        return node.meta["val"]


class Call(nn.Module):
    """A function of an input and of parameters, as a module."""

    def __init__(self, function, **shapes):
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))

    def forward(self, x):
        return self.function(self, x)


def capture(module, x):
    traced = fx.GraphModule(module, Opened().trace(module))
    Values(traced).run(x)
    return traced


def table_of(module, x):
    return cost_table(module, {"": capture(module, x)})


def macs(table):
    return table.totals()["macs"]["total"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.norm(self.embed(x)))


def test_tied_weights_have_one_row_and_the_sum_of_their_uses() -> None:
    x = torch.zeros(4, 7, dtype=torch.int64)
    table = table_of(Tied(), x)
    assert [row.name for row in table] == [
        "embed.weight",
        "norm.weight",
        "norm.bias",
        "head.bias",
    ]
    row = table["embed.weight"]
    assert (row.op, row.params, row.bytes) == ("embedding+linear", 66, 264)
    assert row.number() == 4 * 7 * 66
    assert table.totals()["params"] == {"maskable": 66, "fixed": 23, "total": 89}


def test_an_embedding_alone_costs_no_macs() -> None:
    row = table_of(nn.Embedding(11, 6), torch.zeros(4, 7, dtype=torch.int64))["weight"]
    assert (row.op, row.number(), row.maskable) == ("embedding", 0, True)


def test_what_is_not_used_as_it_is_stays_fixed_with_a_reason() -> None:
    def forward(module, x):
        low_rank = module.a @ module.b
        standardised = F.normalize(module.c, dim=1)
        diagonal = torch.einsum("bi,ii->bi", x, module.d)
        return (
            F.linear(x, low_rank),
            F.linear(x, standardised),
            diagonal,
            x @ module.vector,
        )

    module = Call(forward, a=(6, 2), b=(2, 6), c=(5, 6), d=(6, 6), vector=(6,))
    x = torch.randn(4, 6)
    table = table_of(module, x)
    # normalising leaves zeros zero: the one weight here that can be masked
    assert [row.name for row in table if row.maskable] == ["c"]
    assert table["a"].reason == ("reaches linear (linear) through matmul, not as it is")
    assert table["d"].reason == "einsum (einsum) uses only a diagonal of it"
    assert table["vector"].reason.startswith("fewer than two dimensions")
    expected = 6 * 2 * 6 + 4 * 36 + 4 * 30 + 4 * 6 + 4 * 6
    assert macs(table) == expected


def test_a_slice_spreads_its_macs_over_the_weight() -> None:
    module = Call(lambda m, x: F.linear(x, m.w[:3]), w=(5, 6))
    table = table_of(module, torch.randn(4, 6))
    assert table["w"].maskable
    assert table.totals()["macs"] == {"maskable": 72, "fixed": 0, "total": 72}


def test_subgraphs_speak_of_the_whole_model() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 5), nn.ReLU()))
    x = torch.randn(4, 6)
    table = cost_table(model, {"1": capture(model[1], x)})
    seen, unseen = table["1.0.weight"], table["0.weight"]
    assert (seen.module, seen.op, seen.number()) == ("1.0", "linear", 120)
    assert (unseen.op, unseen.number(), unseen.maskable) == ("linear", 0, True)
    assert unseen.reason == "MACs unknown: no captured graph uses it"


def test_table_as_text_and_numbers() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))
    table = table_of(model, torch.randn(4, 7, 6))
    lines = str(table).splitlines()
    assert lines[0].split() == "name op shape MACs number share kind".split()
    assert lines[2].split() == (
        "0.weight linear 5x6 30*batch*tokens 840 100.0 % maskable".split()
    )
    assert lines[-1] == "and 3 fixed without MACs: 15 parameters"
    assert table["0.weight"].number("flops") == 1680
    assert table.to_dict()["totals"] == table.totals()
    assert table.to_dict()["rows"][0]["costs"] == {
        "macs": 840,
        "params": 30,
        "bytes": 120,
    }
    with pytest.raises(KeyError):
        table["nothing"]


def test_a_site_takes_the_costs_of_its_row() -> None:
    row = table_of(nn.Linear(6, 5).half(), torch.randn(4, 7, 6).half())["weight"]
    site = Site("weight", "", row.op, row.shape, row.per_weight(), row.sizes)
    assert (site.cost("macs"), site.cost("bytes")) == (28, 2)
    assert site.cost("macs", {"batch": 1}) == 7


def test_a_block_of_vit_b16_by_hand() -> None:
    tokens, dim = 197, 768
    weights = dim * 3 * dim + dim * dim + 2 * 4 * dim * dim
    linear = linear_uses((1, tokens)).number() * weights
    attention = attention_macs((1, 12), tokens, tokens, 64, 64).number()
    stem = conv_uses((1,), (14, 14)).number() * 16 * 16 * 3 * dim
    total = 12 * (linear + attention) + stem + dim * 1000
    assert math.isclose(total, 17.56e9, rel_tol=1e-3)


def test_the_convolutions_of_resnet_50_by_hand() -> None:
    def layer(size, weights):
        return conv_uses((1,), (size, size)).number() * weights

    total, channels = layer(112, 49 * 3 * 64), 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width, size = 64 << stage, 56 >> stage
        for block in range(blocks):
            # The stride is in the 3x3, so the first 1x1 sees the larger size.
            before = size * 2 if stage and block == 0 else size
            total += layer(before, channels * width)
            total += layer(size, 9 * width * width) + layer(size, 4 * width * width)
            if block == 0:
                total += layer(size, channels * 4 * width)
            channels = 4 * width
    assert math.isclose(total + 2048 * 1000, 4.09e9, rel_tol=1e-3)


def test_amounts_number_symbols_that_clash() -> None:
    amount = Amount.of(2, "batch").times(Amount.of(3, "batch"))
    assert str(amount.expr) == "batch*batch_2"
    assert amount.number({"batch_2": 5}) == 10


def test_bilinear_by_hand() -> None:
    module = Call(lambda m, x: F.bilinear(x, x, m.w), w=(5, 6, 6))
    row = table_of(module, torch.randn(4, 7, 6))["w"]
    assert (row.op, row.number()) == ("bilinear", 4 * 7 * 180)


def test_annotation_writes_meta_and_nothing_else() -> None:
    module = Call(lambda m, x: (x @ m.w) @ x.t(), w=(6, 6))
    traced = capture(module, torch.randn(4, 6))
    code = traced.code
    assert AnnotateCosts()(traced) is traced
    assert traced.code == code
    noted = [n for n in traced.graph.nodes if "sparsefx" in n.meta]
    first, second = (node.meta["sparsefx"] for node in noted)
    assert [use.parameter for use in first["uses"]] == ["w"]
    assert first["fixed_macs"] is None
    assert (second["uses"], second["fixed_macs"].number()) == ((), 4 * 6 * 4)


def test_a_graph_without_values_is_refused() -> None:
    module = nn.Linear(6, 5)
    traced = fx.GraphModule(module, Opened().trace(module))
    with pytest.raises(CaptureError) as caught:
        cost_table(module, {"": traced})
    assert str(caught.value) == (
        "node input_1 has no recorded value in node.meta['val']; run "
        "torch.fx.passes.fake_tensor_prop.FakeTensorProp on the graph first"
    )


def test_a_notebook_shows_what_is_printed():
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8))
    table = sparsefx.costs(module, (torch.randn(3, 4),))
    cell = table._repr_html_()
    assert "<td>0.weight</td>" in cell
    assert "<p>and 3 fixed without MACs: 24 parameters</p>" in cell
    assert "and 3 fixed without MACs: 24 parameters" in str(table)
