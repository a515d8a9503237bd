"""Weights that are used, owned or shared in unusual ways."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations as parametrize

from traps.base import only, trap, x


def raw(*shape: int) -> Any:
    return lambda: nn.Parameter(0.3 * torch.randn(*shape))


def mixture(m: Any, v: Tensor) -> Tensor:
    gates = m.gate(v).softmax(-1)
    return m.b(torch.einsum("bi,eio,be->bo", v, m.experts, gates))


def gathered(m: Any, v: Tensor) -> Tensor:
    chosen = m.gate(v).argmax(-1)
    return m.b(torch.bmm(v[:, None], m.experts[chosen])[:, 0])


def called(m: Any, v: Tensor) -> Tensor:
    weights = {"weight": m.a.weight * 2, "bias": m.a.bias}
    return m.b(torch.func.functional_call(m.a, weights, (v,)))


def hyper(m: Any, v: Tensor) -> Tensor:
    weight = m.a(v.mean(0)).outer(m.b.weight[0])
    return F.linear(v, weight)


def fourier(m: Any, v: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(m.a(v)) @ torch.view_as_complex(m.w)
    return m.b(torch.fft.irfft(spectrum, n=6))


def tied() -> Any:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 6), nn.Linear(6, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, index: Tensor) -> Tensor:
            return self.head(torch.tanh(self.embed(index)))

    return Tied(), (torch.arange(12).reshape(4, 3) % 10,)


def aliased() -> Any:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.ReLU(), nn.Linear(6, 3)), (x(),)


def cells(m: Any, v: Tensor) -> Tensor:
    state = None
    for step in v.unbind(1):
        state = m.cell(step, state)
    return m.b(state[0])


def recurrent(kind: Any, **options: Any) -> Any:
    return lambda: only(kind(6, 5, batch_first=True, **options), 3, 4, 6)


def attention(**options: Any) -> Any:
    return lambda: (
        nn.MultiheadAttention(6, 2, batch_first=True, **options),
        (x(3, 4, 6), x(3, 5, options.get("kdim", 6)), x(3, 5, 6)),
    )


def encoder() -> Any:
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    return only(nn.TransformerEncoder(layer, 2), 3, 4, 6)


def old_weight_norm() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return only(nn.utils.weight_norm(nn.Linear(6, 3)), 4, 6)


MODELS = {
    "tied_embedding": tied,
    "layer_called_twice": trap(lambda m, v: m.b(m.a(torch.tanh(m.a(v))))),
    "other_shapes": trap(lambda m, v: m.a(v).sum(0) + m.a(v[:, None]).sum((0, 1))),
    "aliased_layer": aliased,
    "raw_linear": trap(lambda m, v: m.b(F.linear(v, m.w)), w=raw(6, 6)),
    "raw_transposed": trap(lambda m, v: m.b(v @ m.w.t()), w=raw(6, 6)),
    "raw_slice": trap(lambda m, v: m.b(v @ m.w[2:8]), w=raw(9, 6)),
    "raw_einsum": trap(
        lambda m, v: m.b(torch.einsum("bi,io->bo", v, m.w)), w=raw(6, 6)
    ),
    "experts_by_einsum": trap(
        mixture, gate=lambda: nn.Linear(6, 3), experts=raw(3, 6, 6)
    ),
    "experts_by_gather": trap(
        gathered, gate=lambda: nn.Linear(6, 3), experts=raw(3, 6, 6)
    ),
    "parameter_list": trap(
        lambda m, v: m.b(v @ m.ws[0] @ m.ws[1]),
        ws=lambda: nn.ParameterList([raw(6, 6)(), raw(6, 6)()]),
    ),
    "parameter_dict": trap(
        lambda m, v: m.b(v @ m.ws["w"]),
        ws=lambda: nn.ParameterDict({"w": raw(6, 6)()}),
    ),
    "functional_call": trap(called),
    "hyper_network": trap(hyper),
    "complex_weights": trap(fourier, w=raw(4, 4, 2)),
    "bilinear": lambda: (nn.Bilinear(6, 6, 3), (x(), x())),
    "lstm": recurrent(nn.LSTM),
    "lstm_deep": recurrent(nn.LSTM, num_layers=2, bidirectional=True, dropout=0.3),
    "lstm_projected": recurrent(nn.LSTM, proj_size=3),
    "gru": recurrent(nn.GRU),
    "rnn": recurrent(nn.RNN),
    "lstm_cells": trap(cells, lambda: (x(4, 3, 6),), cell=lambda: nn.LSTMCell(6, 6)),
    "attention": attention(),
    "attention_other_width": attention(kdim=7),
    "encoder_layer": lambda: only(
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), 3, 4, 6
    ),
    "encoder": encoder,
    "transformer": lambda: (
        nn.Transformer(6, 2, 1, 1, 8, batch_first=True),
        (x(3, 4, 6), x(3, 5, 6)),
    ),
    "weight_norm": lambda: only(parametrize.weight_norm(nn.Linear(6, 3)), 4, 6),
    "weight_norm_old": old_weight_norm,
    "spectral_norm": lambda: only(parametrize.spectral_norm(nn.Linear(6, 3)), 4, 6),
    "orthogonal": lambda: only(
        nn.Sequential(parametrize.orthogonal(nn.Linear(6, 6)), nn.Linear(6, 3)), 4, 6
    ),
    "transposed_conv": lambda: only(nn.ConvTranspose2d(2, 4, 3, groups=2), 3, 2, 5, 5),
    "depthwise_conv": lambda: only(
        nn.Conv2d(4, 8, 3, groups=4, padding=1, padding_mode="reflect"), 3, 4, 5, 5
    ),
    "conv3d": lambda: only(nn.Conv3d(2, 3, 2), 3, 2, 4, 4, 4),
    "embedding_with_norm": lambda: (
        nn.Sequential(nn.Embedding(10, 6, max_norm=1.0), nn.Linear(6, 3)),
        (torch.arange(12).reshape(4, 3) % 10,),
    ),
    "embedding_bag": lambda: (
        nn.Sequential(nn.EmbeddingBag(10, 6), nn.Linear(6, 3)),
        (torch.arange(12).reshape(4, 3) % 10,),
    ),
}
