"""A convolution whose kept weights are packed, and what follows it, in one product."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sparsefx.kernels.sparse_convolution import After, unfolded
from sparsefx.kernels.sparse_product import Form, Packed, pack
from sparsefx.lowering.dense_layer import Dense
from sparsefx.torch_internals import is_exporting


class PackedConvolution(nn.Module):
    """A convolution by the kernel of `sparse_convolution`.

    Attributes:
        blocks, groups, rows, columns, values: the weight, as `Packed` says.
        scale, shift: of every output, ``(out,)``, or None.
        activation: of the output, one of `ACTIVATIONS`.
        window: kernel, stride, padding and dilation, each height and width.
        form: how the weight is laid out.

    Example:
        >>> from sparsefx.lowering.dense_layer import Window
        >>> window = Window((1, 2), (1, 1), (0, 0), (1, 1))
        >>> layer = Dense("weight", torch.tensor([[[[0.0, 2.0]]]]), None, window)
        >>> PackedConvolution(layer, Form(128, 8))(torch.tensor([[[[1.0, 3.0]]]]))
        tensor([[[[6.]]]])
    """

    blocks: Tensor
    groups: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor
    scale: Tensor | None
    shift: Tensor | None

    def __init__(self, layer: Dense, form: Form) -> None:  # noqa: D107
        super().__init__()
        assert layer.window is not None
        view = layer.window
        self.shape = tuple(layer.weight.shape)
        self.window = (*view.kernel, *view.stride, *view.padding, *view.dilation)
        self.form = form
        self.activation = "none"
        for name, part in pack(layer.matrix, form)._asdict().items():
            if part is not None:
                self.register_buffer(name, part)
        self.register_buffer("scale", None)
        bias = None if layer.bias is None else layer.bias.detach()
        self.register_buffer("shift", bias)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for the dense layer's input."""
        packed = Packed(self.blocks, self.groups, self.rows, self.columns, self.values)
        if is_exporting():
            after = After(self.scale, self.shift, self.activation)
            return unfolded(x, packed, self.window, after, self.shape[0])
        y: Tensor = torch.ops.sparsefx.packed_conv(
            x,
            list(packed[:5]),
            self.scale,
            self.shift,
            self.activation,
            self.window,
            self.shape[0],
            self.form.vectors,
        )
        return y

    def extra_repr(self) -> str:
        """Shape, form, kept entries, and what follows."""
        kept = self.values.numel()
        after = "scaled, " * (self.scale is not None) + self.activation
        return f"{self.shape}, form={self.form}, kept={kept}, {after}"

    def normed_by(self, norm: nn.BatchNorm2d) -> PackedConvolution:
        """This layer and a norm of running statistics, on the same packed weights."""
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        scale = (var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        start = -mean.double() if self.shift is None else self.shift - mean.double()
        shift = scale * start if norm.bias is None else scale * start + norm.bias
        made = copy.copy(self)
        parts = {"scale": scale.to(mean.dtype), "shift": shift.to(mean.dtype)}
        made._buffers = {**self._buffers, **parts}
        return made.requires_grad_(False)

    def followed_by(self, activation: str) -> PackedConvolution:
        """This layer and an activation, on the same packed weights."""
        made = copy.copy(self)
        made.activation = activation
        return made
