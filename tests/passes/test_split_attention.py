"""Attention in plain nodes computes what torch's layer computes, with its gradients."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.errors import CaptureError
from sparsefx.passes import SplitAttention
from tests.models import Attention
from tests.some_of import some_of


class Layer(nn.Module):
    """One attention layer with masks that are inputs, and the calls that use it."""

    def __init__(self, cross: bool, causal: bool = False, **options: object) -> None:
        super().__init__()
        self.cross, self.causal = cross, causal
        self.weights = bool(options.pop("weights", False))
        self.average = bool(options.pop("average", True))
        self.attention = nn.MultiheadAttention(8, 2, **options)

    def forward(
        self, x: Tensor, y: Tensor, pairs: Tensor | None, keys: Tensor | None
    ) -> Tensor:
        out, weights = self.attention(
            x,
            *((y, y) if self.cross else (x, x)),
            attn_mask=pairs,
            key_padding_mask=keys,
            is_causal=self.causal,
            need_weights=self.weights,
            average_attn_weights=self.average,
        )
        return out if weights is None else (out, weights)


# torch warns that it will refuse masks of two types
MIXED = ({"bool", "float"}, {"bool", "by head"})


def split_of(model: nn.Module, inputs: tuple[object, ...]) -> nn.Module:
    return SplitAttention()(sparsefx.capture(model, inputs).graphs[""])


def assert_same(model: nn.Module, inputs: tuple[object, ...]) -> None:
    """Outputs and gradients in float32, at two batch sizes unless that is fixed."""
    split = split_of(model, inputs)
    assert "multi_head_attention" not in split.code
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    found = []
    for run, given in ((model, inputs), (split, tensors)):
        model.zero_grad()
        out = run(*given)
        out = out if isinstance(out, tuple) else (out,)
        sum((part * part).sum() for part in out).backward()
        found.append([*out, *(p.grad.clone() for p in model.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


PAIRS = {
    "none": None,
    "bool": torch.ones(4, 4).triu(1).bool(),
    "float": torch.randn(4, 4, generator=torch.Generator().manual_seed(1)),
    "by head": torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(2)),
}
KEYS = {
    "none": None,
    "bool": torch.tensor([[False] * 4, [False, False, True, True], [False] * 4]),
    "float": torch.randn(3, 4, generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize(
    ("pairs", "keys"),
    some_of(((a, b) for a in PAIRS for b in KEYS if {a, b} not in MIXED), 4),
)
def test_masks(pairs: str, keys: str) -> None:
    x, y = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    model = Layer(cross=True, batch_first=True)
    assert_same(model, (x, y, PAIRS[pairs], KEYS[keys]))


@pytest.mark.parametrize("cross", some_of([True, False], 2))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"batch_first": True},
        {"weights": True},
        {"weights": True, "average": False, "batch_first": True},
        {"kdim": 8, "vdim": 8},
    ],
    ids=str,
)
def test_options(cross: bool, options: dict[str, object]) -> None:
    x, y = torch.randn(4, 3, 8), torch.randn(4, 3, 8)
    assert_same(Layer(cross, **options), (x, y, None, None))


def test_separate_widths() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, kdim=5, vdim=6)

        def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return self.attention(x, k, v, need_weights=False)[0]

    inputs = torch.randn(4, 3, 8), torch.randn(7, 3, 5), torch.randn(7, 3, 6)
    assert_same(Wide(), inputs)


def test_causal_flag_is_kept() -> None:
    model = Layer(cross=False, causal=True, batch_first=True)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    inputs = (torch.randn(3, 4, 8), torch.randn(3, 4, 8), mask, None)
    assert "is_causal = True" in split_of(model, inputs).code
    assert_same(model, inputs)
    assert_same(model, (*inputs[:3], KEYS["float"]))


def test_unbatched() -> None:
    inputs = torch.randn(4, 8), torch.randn(4, 8), None, None
    assert_same(Layer(cross=False), inputs)
    assert_same(Layer(cross=True, weights=True), inputs)


def test_encoder_layers_modes_and_batches() -> None:
    model = Attention()
    split = split_of(model, (torch.randn(3, 5, 4),))
    for training, batch in itertools.product((True, False), (1, 5)):
        model.train(training)
        x = torch.randn(batch, 5, 4)
        torch.testing.assert_close(split(x), model(x), rtol=1e-5, atol=1e-6)


def test_dropout_follows_the_mode() -> None:
    model = Layer(cross=False, dropout=0.5)
    x = torch.randn(4, 3, 8)
    split = split_of(model, (x, x, None, None))
    model.eval()
    assert torch.equal(split(x, x), split(x, x))
    torch.testing.assert_close(split(x, x), model(x, x, None, None))
    model.train()
    assert not torch.equal(split(x, x), split(x, x))


def test_parameters_keep_their_names() -> None:
    model = Attention()
    split = split_of(model, (torch.randn(3, 5, 4),))
    read = {node.target for node in split.graph.nodes if node.op == "get_attr"}
    assert {name for name, _ in model.named_parameters()} <= read


@pytest.mark.parametrize(
    ("options", "name"),
    [({"add_bias_kv": True}, "bias_k"), ({"add_zero_attn": True}, "add_zero_attn")],
)
def test_what_cannot_be_split_is_refused_by_name(
    options: dict[str, object], name: str
) -> None:
    x = torch.randn(4, 3, 8)
    with pytest.raises(CaptureError, match=rf"'attention'.*{name}"):
        split_of(Layer(cross=False, **options), (x, x, None, None))
