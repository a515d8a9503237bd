"""Lowered models compute what the dense ones do; what is chosen is what was timed."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import sparsefx
from sparsefx.lowering import lower as lower_function
from sparsefx.lowering.dense_layer import (
    Dense,
    Window,
    columns_of,
    of_module,
    result_of,
)
from sparsefx.lowering.feature_major_attention import feature_major_attention
from sparsefx.lowering.inference_graph import graph_of
from sparsefx.lowering.layer_forms import (
    CompressedLayer,
    CutLayer,
    NoCandidateError,
    SemiStructuredLayer,
)
from sparsefx.lowering.layer_trial import try_layer
from sparsefx.lowering.lower_graph import lower_graph
from sparsefx.lowering.sparse_ops import compressed
from sparsefx.lowering.tiles import LINE, WIDEST, Tiling, feature_last, feature_major
from sparsefx.lowering.timing import interleaved
from sparsefx.lowering.zero_patterns import block_size, is_two_of_four

CPU = torch.device("cpu")
DOUBLE = {"fused": 2.0, "ours": 1.0}


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


@pytest.fixture
def block():
    torch.manual_seed(0)
    return thinned(Block()), torch.randn(2, 50, 32)


@given(st.integers(1, 2000))
def test_tiles_are_aligned_narrow_and_waste_little(tokens: int) -> None:
    tiling = Tiling.of(tokens)
    assert tiling.width % LINE == 0
    assert tiling.width <= WIDEST
    assert 0 <= tiling.pieces * tiling.width - tokens < LINE * tiling.pieces


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 700))
def test_cutting_and_joining_undo_each_other(
    batch: int, features: int, tokens: int
) -> None:
    x = torch.arange(batch * features * tokens).reshape(batch, features, tokens)
    tiling = Tiling.of(tokens)
    tiles = tiling.cut(x)
    assert tiles.shape == (batch * tiling.pieces, features, tiling.width)
    assert torch.equal(tiling.join(tiles), x)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.integers(1, 5))
def test_feature_major_and_back(sizes: list[int], features: int) -> None:
    x = torch.randn(*sizes, features)
    assert torch.equal(feature_last(feature_major(x), x.shape), x)


LINEARS = [(1, 40), (7, 40), (300, 40), (2, 60, 40), (3, 5, 40), (2, 8, 9, 40)]


@pytest.mark.parametrize("shape", LINEARS)
@pytest.mark.parametrize("kernel", ["gather", "csr", "bsr"])
def test_compressed_linear(shape: tuple[int, ...], kernel: str) -> None:
    torch.manual_seed(0)
    blocks = (torch.rand(6, 5) < 0.3).repeat_interleave(8, 0).repeat_interleave(8, 1)
    layer = Dense("w", torch.randn(48, 40) * blocks, torch.randn(48))
    x = torch.randn(shape)
    found = CompressedLayer(layer, kernel)(x)
    assert found.shape == (*shape[:-1], 48)
    torch.testing.assert_close(found, layer(x), atol=1e-5, rtol=1e-5)


WINDOWS = [
    Window((1, 1), (1, 1), (0, 0), (1, 1)),
    Window((1, 1), (2, 2), (0, 0), (1, 1)),
    Window((3, 3), (1, 1), (1, 1), (1, 1)),
    Window((3, 2), (2, 1), (0, 1), (1, 2)),
]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kernel", ["gather", "csr"])
def test_compressed_convolution(window: Any, kernel: str) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, *window.kernel)
    layer = Dense("w", weight * (torch.rand(weight.shape) < 0.3), None, window)
    x = torch.randn(2, 5, 17, 19)
    found = CompressedLayer(layer, kernel)(x)
    torch.testing.assert_close(found, layer(x), atol=1e-5, rtol=1e-5)


def test_columns_times_matrix_is_the_convolution() -> None:
    window = Window((3, 3), (2, 2), (1, 1), (1, 1))
    layer = Dense("w", torch.randn(4, 3, 3, 3), None, window)
    x = torch.randn(2, 3, 9, 8)
    product = layer.matrix @ columns_of(x, window)
    torch.testing.assert_close(result_of(product, x, window), layer(x))


@pytest.mark.parametrize("bias", [True, False])
def test_cut_layer_keeps_places(bias: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4, 3, 3)
    weight[[1, 4]] = 0
    weight[:, 2] = 0
    window = Window((3, 3), (1, 1), (1, 1), (1, 1))
    layer = Dense("w", weight, torch.randn(6) if bias else None, window)
    x = torch.randn(2, 4, 5, 5)
    cut = CutLayer(layer)
    assert cut.weight.shape == (4, 3, 3, 3)
    torch.testing.assert_close(cut(x), layer(x))
    flat = Dense("w", weight[..., 0, 0], layer.bias)
    last = x.transpose(1, 3)
    torch.testing.assert_close(CutLayer(flat)(last), flat(last))


def test_no_candidates_say_why() -> None:
    full = Dense("w", torch.ones(4, 4), None)
    half = Dense("w", torch.tensor([[1.0, 0.0, 1.0, 0.0]]), None)
    with pytest.raises(NoCandidateError, match="no zero row"):
        CutLayer(full)
    with pytest.raises(NoCandidateError, match="nothing left"):
        CutLayer(Dense("w", torch.zeros(2, 2), None))
    with pytest.raises(NoCandidateError, match="no blocks"):
        CompressedLayer(half, "bsr")
    with pytest.raises(NoCandidateError, match="no 2:4"):
        SemiStructuredLayer(full)
    with pytest.raises(NoCandidateError, match="needs a GPU"):
        SemiStructuredLayer(half)


def test_patterns() -> None:
    mask = torch.zeros(64, 64)
    mask[:32, 32:] = 1
    assert block_size(mask) == 32
    mask[33, 1] = 1  # one weight outside: larger blocks would be too empty
    assert block_size(mask) == 8
    assert block_size(torch.ones(64, 64)) is None
    assert block_size(torch.zeros(64, 64)) is None
    assert is_two_of_four(torch.tensor([[0.0, 1, 1, 0, 1, 0, 0, 1]]))
    assert not is_two_of_four(torch.tensor([[0.0, 1, 1, 1, 0, 0, 0, 0]]))
    assert not is_two_of_four(torch.zeros(2, 6))


def test_compressed_rows_are_scipys() -> None:
    from scipy.sparse import csr_matrix

    matrix = thinned(nn.Linear(9, 7)).weight.detach()
    wanted = csr_matrix(matrix.numpy())
    offsets, columns, values = compressed(matrix)
    assert offsets.tolist() == wanted.indptr.tolist()
    assert columns.tolist() == wanted.indices.tolist()
    assert values.tolist() == wanted.data.tolist()


# -- removal ---------------------------------------------------------------------------


def cut(model, x):
    return graph_of(model.eval(), (x,), shrink=True)[0]


@pytest.mark.parametrize("act", [nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Softplus()])
@pytest.mark.parametrize("bias", [True, False])
def test_dead_neurons_are_cut_and_their_constants_folded(act: Any, bias: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 8), act, nn.Linear(8, 7, bias=bias), act, nn.Linear(7, 3)
    ).double()
    with torch.no_grad():
        net[0].weight[[1, 2]] = 0  # silent: a constant sigmoid(b) remains
        net[2].weight[:, 5] = 0  # nobody listens
        net[4].weight[:, [0, 6]] = 0
    x = torch.randn(4, 5, dtype=torch.float64)
    small = cut(net, x)
    assert small.state_dict()["0.weight"].shape == (5, 5)
    assert small.state_dict()["2.weight"].shape == (5, 5)
    torch.testing.assert_close(small(x), net(x), atol=1e-12, rtol=1e-12)


def test_a_cut_may_allow_another() -> None:
    """Neuron 0 of the last hidden layer dies, then what only it listened to."""
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        net[2].weight.copy_(torch.eye(2))
        net[3].weight[0, 0] = 0
    small = cut(net, torch.randn(2, 3))
    assert small.state_dict()["0.weight"].shape == (1, 3)


def convs(padding, norm=True):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=padding, bias=False),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 3, padding=padding),
    ).double()
    with torch.no_grad():
        net[0].weight[:3] = 0
        if norm:
            net[1].running_mean.normal_()
            net[1].bias.copy_(torch.tensor([5.0, -5.0, -5.0, 1, 1, 1, 1, 1]))
            net[1].running_mean[:3] = 0
    return net.eval()


@pytest.mark.parametrize("padding", [0, 1])
def test_dead_channels_through_norm_and_pool(padding: int) -> None:
    """Channel 0 says relu(5), which a padded border does not: there it stays."""
    net = convs(padding)
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    small = cut(net, x)
    left = 5 + padding
    assert small.state_dict()["0.weight"].shape == (left, 3, 3, 3)
    assert small.get_submodule("1").num_features == left
    torch.testing.assert_close(small(x), net(x), atol=1e-12, rtol=1e-12)
    assert net[1].num_features == 8


class Seen(nn.Module):
    """Its hidden units are seen one by one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        hidden = self.a(x).relu()
        return self.b(hidden) + hidden[..., :2]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x).relu())


@pytest.mark.parametrize("kind", [Seen, Tied])
def test_units_that_others_see_stay(kind: type[nn.Module]) -> None:
    net = kind()
    with torch.no_grad():
        net.a.weight[0] = 0
    small = cut(net, torch.randn(2, 4))
    assert small.state_dict()["a.weight"].shape == net.a.weight.shape


def test_a_layer_keeps_one_unit() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        net[0].weight.zero_()
    x = torch.randn(2, 3)
    small = cut(net, x)
    assert small.state_dict()["0.weight"].shape == (1, 3)
    torch.testing.assert_close(small(x), net(x))


# -- choosing --------------------------------------------------------------------------


def test_the_fastest_wins_and_the_rest_say_by_how_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = {"dense": 10.0, "removal 0": 8.0, "csr 0": 4.0, "csr 1": 2.0, "bsr 0": 20.0}
    monkeypatch.setattr(
        "sparsefx.lowering.layer_trial.interleaved",
        lambda calls, *_: {name: times[name] for name in calls},
    )
    weight = torch.zeros(16, 16)
    weight[:8, :8] = 1
    layer = Dense("w", weight, None)
    trial = try_layer(layer, torch.randn(3, 16))
    assert trial.chosen == "csr"
    assert trial.module.kernel == "csr"
    assert trial.gain == 5
    assert trial.times == {"dense": 10, "removal": 8, "csr": 2, "bsr": 20}
    assert trial.lost["bsr"] == "0.5x"
    assert trial.lost["removal"] == "1.2x"
    assert trial.lost["semi_structured"] == "no 2:4 pattern"
    times |= {"removal 0": 9.9, "csr 0": 9.9, "csr 1": 12.0}
    trial = try_layer(layer, torch.randn(3, 16))  # 1 % is noise
    assert trial.chosen == "dense"
    assert trial.module is None
    assert try_layer(layer, torch.randn(3, 16), "bsr").chosen == "bsr"


def test_a_form_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompressedLayer, "forward", lambda self, x: x * 0)
    layer = Dense("w", torch.eye(16), None)
    trial = try_layer(layer, torch.randn(3, 16), rounds=1)
    assert trial.chosen == "dense"
    assert trial.lost["csr"] == "differs by 1 of the largest output"


def test_interleaved_times() -> None:
    slow, quick = torch.randn(200, 200), torch.randn(2, 2)
    times = interleaved({"a": lambda: slow @ slow, "b": lambda: quick @ quick}, CPU, 3)
    assert times["a"] > times["b"] > 0


# -- attention -------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 5))
def test_feature_major_attention(
    heads: int, queries: int, keys: int, features: int
) -> None:
    q = torch.randn(2, heads, queries, features, dtype=torch.float64)
    k, v = torch.randn(2, 2, heads, keys, features, dtype=torch.float64)
    for scale in (None, 0.3):
        torch.testing.assert_close(
            feature_major_attention(q, k, v, scale),
            functional.scaled_dot_product_attention(q, k, v, scale=scale),
        )


def test_attention_follows_the_sparse_products(
    block: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = block
    monkeypatch.setattr(
        "sparsefx.lowering.feature_major_attention.interleaved", lambda *_: DOUBLE
    )
    found = graph_of(model, (x,))
    assert not isinstance(found, str)
    module, _ = found
    for target, taken in (("csr", True), ("dense", False)):
        made, _, _ = lower_graph(module, [x], target, 1, fused=True)
        targets = {node.target for node in made.graph.nodes}
        assert (feature_major_attention in targets) == taken
        torch.testing.assert_close(made(x), model(x), atol=1e-5, rtol=1e-4)


# -- whole models ----------------------------------------------------------------------


@pytest.mark.parametrize("target", ["csr", "dense"])
def test_forced_targets(block: Any, target: str) -> None:
    model, x = block
    fast = sparsefx.lower(model, (x,), target, compile=False, rounds=1)
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
    assert {row.chosen for row in fast.report.layers} == {target}
    names = [row.name for row in fast.report.layers]
    assert names == ["qkv.weight", "proj.weight", "fc1.weight", "fc2.weight"]
    kinds = {type(m) for m in fast.modules()}
    assert (CompressedLayer in kinds) == (target == "csr")
    other = torch.randn(5, 50, 32)
    torch.testing.assert_close(fast(other), model(other), atol=1e-5, rtol=1e-4)


def test_the_whole_decides(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the layers are alone, a slower whole stays dense."""
    model, x = block
    state = copy.deepcopy(model.state_dict())
    alone = {"dense": 2.0, "csr 0": 1.0, "csr 1": 1.0}
    monkeypatch.setattr("sparsefx.lowering.layer_trial.interleaved", lambda *_: alone)
    for gain, verdict in (
        (0.9, "dense: the whole model would run at 0.90x"),
        (1.5, "lowered: 1.50x the dense model"),
    ):
        monkeypatch.setattr(
            "sparsefx.lowering.lower_model.interleaved",
            lambda calls, *_, g=gain: {"dense": 3.0, "lowered": 3.0 / g},
        )
        fast = sparsefx.lower(model, (x,), compile=False, rounds=1)
        assert fast.report.verdict == verdict
        chosen = {row.chosen for row in fast.report.layers}
        assert (chosen == {"dense"}) == (gain < 1)
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_dense_models_stay(block: Any) -> None:
    _, x = block
    fast = sparsefx.lower(Block(), (x,), compile=False, rounds=1)
    assert fast.report.verdict == "dense: no layer is faster in another form"
    assert {row.lost["csr"] for row in fast.report.layers} == {"it has no zeros"}


class Branching(Block):
    """No single graph: a value decides which code runs."""

    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


def test_models_without_a_graph_are_lowered_by_modules(block: Any) -> None:
    _, x = block
    model = thinned(Branching())
    assert isinstance(graph_of(model, (x,)), str)
    fast = sparsefx.lower(model, (x,), "csr", compile=False, rounds=1)
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
    assert isinstance(fast.module.fc1, CompressedLayer)
    assert isinstance(model.fc1, nn.Linear)


def test_removal_in_a_model(block: Any) -> None:
    model, x = block
    with torch.no_grad():
        model.fc1.weight[32:] = 0
        model.qkv.weight[:16] = 0  # rows inside a fused layer: cut where they are
    fast = sparsefx.lower(model, (x,), "removal", compile=False, rounds=1)
    rows = {row.name: row for row in fast.report.layers}
    assert rows["fc1.weight"].chosen == rows["fc2.weight"].chosen == "removal"
    assert rows["fc1.weight"].shape == (128, 32)
    assert fast.module.state_dict()["fc1.weight"].shape == (32, 32)
    assert rows["qkv.weight"].chosen == "removal"
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)


def test_finalized_models(block: Any) -> None:
    x = block[1]
    sparse = sparsefx.transform(Block(), budget=0.1, example_inputs=(x,))
    with pytest.raises(sparsefx.MaskError, match="still in training"):
        sparsefx.lower(sparse, (x,))
    dense = sparsefx.finalize(sparse)
    fast = sparsefx.lower(dense, {"x": x}, "csr", compile=False, rounds=1)
    torch.testing.assert_close(fast(x=x), dense.eval()(x), atol=1e-5, rtol=1e-4)


def test_mistakes(block: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = block
    with pytest.raises(sparsefx.SparsefxError, match="known are auto, dense, removal"):
        sparsefx.lower(model, (x,), "fastest")
    with pytest.raises(sparsefx.SparsefxError, match="rounds is 0"):
        sparsefx.lower(model, (x,), rounds=0)
    with pytest.raises(
        sparsefx.SparsefxError, match=r"can become bsr \(qkv.weight: no"
    ):
        sparsefx.lower(model, (x,), "bsr", compile=False, rounds=1)
    fast = sparsefx.lower(model, (x,), "csr", compile=False, rounds=1)
    with pytest.raises(sparsefx.SparsefxError, match="lower the model again"):
        fast(torch.randn(2, 51, 32))

    class Random(Block):
        def forward(self, x):
            return super().forward(x) + torch.rand_like(x)

    with pytest.raises(sparsefx.SparsefxError, match="draw random numbers"):
        sparsefx.lower(thinned(Random()), (x,), "csr", compile=False, rounds=1)


def test_report_and_pickle(block: Any) -> None:
    model, x = block
    fast = sparsefx.lower(model, (x,), "csr", compile=False, rounds=1)
    text = str(fast.report)
    assert "qkv.weight   96x32" in text
    assert "csr: " in text
    found = fast.report.to_dict()
    assert found["layers"][0]["name"] == "qkv.weight"
    assert found["times"].keys() == {"dense", "lowered"}
    assert found["gain"] == found["times"]["dense"] / found["times"]["lowered"]
    twin = pickle.loads(pickle.dumps(fast))
    assert torch.equal(twin(x), fast(x))


def test_training_mode_is_put_back(block: Any) -> None:
    model, x = block
    model.train()
    sparsefx.lower(model, (x,), "csr", compile=False, rounds=1)
    assert model.training
    assert all(module.training for module in model.modules())


def test_other_modules_are_no_layers() -> None:
    assert of_module("a", nn.Conv2d(4, 4, 3, groups=2)) is None
    assert of_module("a", nn.Conv2d(4, 4, 3, padding="same")) is None
    assert of_module("a", nn.Conv2d(4, 4, 3, padding_mode="reflect")) is None
    assert of_module("a", nn.ReLU()) is None
    assert of_module("", nn.Linear(2, 2)).name == "weight"
    assert lower_function is sparsefx.lower


@pytest.mark.slow
def test_compiled_whole(block: Any) -> None:
    """The sparse products stay whole: no graph break, and the outputs are right."""
    model, x = block
    fast = sparsefx.lower(model, (x,), "csr", rounds=1)
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        whole = torch.compile(fast, fullgraph=True)(x)
    torch.testing.assert_close(whole, model(x), atol=1e-5, rtol=1e-4)


class Merging(nn.Module):
    """Its `train` does more than set a flag, as adapters that merge weights do."""

    def __init__(self):
        super().__init__()
        self.fc, self.merged = nn.Linear(8, 8), False

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        return self.fc(x)


def test_every_module_keeps_its_mode():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), Merging(), nn.Dropout())
    model[1].eval()
    sparsefx.lower(model, (torch.randn(4, 8),), compile=False)
    assert [m.training for m in model] == [True, False, True, True]
    assert not model[2].merged
    with pytest.raises(sparsefx.SparsefxError):
        sparsefx.lower(model, (torch.randn(4, 8),), target="bsr", compile=False)
    assert [m.training for m in model] == [True, False, True, True]


class Autocasts(nn.Module):
    """A graph that no plain graph module can hold, with a neuron that is zero."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.b(self.a(x).relu()).float()


def test_units_that_cannot_be_cut_are_told():
    net = Autocasts().eval()
    with torch.no_grad():
        net.a.weight[0] = 0
    x = torch.randn(2, 4)
    with pytest.warns(UserWarning, match="autocast"):
        lowered = sparsefx.lower(net, (x,), compile=False)
    torch.testing.assert_close(lowered(x), net(x), atol=1e-2, rtol=1e-2)


def test_a_layer_called_twice_takes_each_constant_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.c(self.a(x).relu()) * self.c(self.b(x).sigmoid())

    torch.manual_seed(0)
    net, x = Twice().double(), torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        net.a.weight[1] = 0
        net.b.weight[1] = 0
        net.a.bias.add_(1)
    torch.testing.assert_close(cut(net, x)(x), net(x), atol=1e-12, rtol=1e-12)


def test_a_bias_that_two_layers_share_stays():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(4, 3)
            self.c.bias = self.b.bias

        def forward(self, x):
            return self.b(self.a(x).sigmoid()) * self.c(x)

    torch.manual_seed(0)
    net, x = Shared().double(), torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        net.a.weight[2] = 0
    torch.testing.assert_close(cut(net, x)(x), net(x), atol=1e-12, rtol=1e-12)
