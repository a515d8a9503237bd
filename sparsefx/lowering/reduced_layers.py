"""Candidates for one layer that compute in fewer bits than its weights have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsefx.kernels.sparse_product import Form, usable
from sparsefx.lowering.dense_layer import Dense
from sparsefx.lowering.layer_forms import SPARSEST, NoCandidateError
from sparsefx.lowering.packed_layer import PackedLayer
from sparsefx.torch_internals import is_exporting


class Bf16Layer(nn.Module):
    """A dense layer in bfloat16; activations keep their type outside of it.

    Example:
        >>> layer = Dense("weight", torch.tensor([[0.5, 2.0]]), None)
        >>> Bf16Layer(layer)(torch.tensor([[1.0, 3.0]]))
        tensor([[6.5000]])
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: Dense) -> None:  # noqa: D107
        super().__init__()
        if layer.weight.dtype not in (torch.float32, torch.float64):
            raise NoCandidateError(f"the weights are {layer.weight.dtype} already")
        self.window = layer.window
        self.register_buffer("weight", layer.weight.detach().bfloat16())
        bias = None if layer.bias is None else layer.bias.detach().bfloat16()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for the dense layer's input, in its type."""
        layer = Dense("", self.weight, self.bias, self.window)
        return layer(x.bfloat16()).to(x.dtype)


class Int8Layer(nn.Module):
    """A dense linear layer by torch's dynamically quantised one.

    ``W ~ s_n q`` with one scale an output; activations are rounded at each call.

    Attributes:
        weight: ``(out, in)``, int8.
        scale: ``(out,)``.
        bias: ``(out,)`` or None.

    Example:
        >>> layer = Dense("weight", torch.tensor([[0.5, 2.0]]), None)
        >>> Int8Layer(layer)(torch.tensor([[1.0, 3.0]])).round()
        tensor([[6.]])
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: Dense) -> None:  # noqa: D107
        super().__init__()
        _needs_finite_floats(layer)
        if layer.window is not None:
            raise NoCandidateError("torch quantises no convolution at each call")
        weight = layer.weight.detach()
        scale = (weight.abs().amax(1) / 127).clamp(min=1e-30)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.data)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for the dense layer's input."""
        if is_exporting():
            weight = self.weight.to(x.dtype) * self.scale[:, None]
            return functional.linear(x, weight, self.bias)
        y: Tensor = torch.ops.sparsefx.int8_linear(
            x, self.weight, self.scale, self.bias
        )
        return y


def _needs_finite_floats(layer: Dense) -> None:
    if layer.weight.dtype is not torch.float32 or not layer.weight.is_cpu:
        raise NoCandidateError("needs float32 and a CPU")
    if not layer.weight.isfinite().all():
        raise NoCandidateError("weights are not finite")


def _rounded(form: Form, sparse: bool) -> Callable[[Dense], nn.Module]:
    def make(layer: Dense) -> nn.Module:
        if (layer.density <= SPARSEST) != sparse:
            raise NoCandidateError(f"{1 - layer.density:.0%} zeros")
        _needs_finite_floats(layer)
        if not usable(layer.weight):
            raise NoCandidateError("needs a C++ compiler")
        return PackedLayer(layer, form)

    return make


_BLOCKS = (Form(64, 8, int8=True), Form(128, 8, int8=True), Form(256, 5, int8=True))

REDUCED: Mapping[str, Mapping[str, tuple[Callable[[Dense], nn.Module], ...]]] = {
    "bf16": {"dense": (Bf16Layer,)},
    "int8": {
        "dense": (Int8Layer, *(_rounded(form, False) for form in _BLOCKS)),
        "csr": tuple(_rounded(form, True) for form in _BLOCKS),
    },
}
"""What a layer can become beside its exact forms, by precision and form."""
