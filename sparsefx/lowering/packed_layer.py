"""A layer whose kept weights are packed for the CPU kernel of `sparse_product`."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sparsefx.kernels.activation import ACTIVATIONS
from sparsefx.kernels.sparse_product import Form, Packed, in_torch, pack
from sparsefx.lowering.dense_layer import Dense, columns_of, result_of
from sparsefx.torch_internals import is_exporting


class PackedLayer(nn.Module):
    """A linear layer or convolution by the kernel; activations keep their layout.

    Attributes:
        blocks, groups, rows, columns, values, scales: the weight, as `Packed` says.
        bias: ``(out,)`` or None.
        window: what a convolution looks at; None for a linear layer.
        form: how the weight is laid out.
        activation: of the output, one of `ACTIVATIONS`.

    Example:
        >>> layer = Dense("weight", torch.tensor([[0.0, 2.0], [0.0, 0.0]]), None)
        >>> PackedLayer(layer, Form(128, 8))(torch.tensor([[1.0, 3.0]]))
        tensor([[6., 0.]])
    """

    blocks: Tensor
    groups: Tensor
    rows: Tensor
    columns: Tensor
    values: Tensor
    scales: Tensor | None
    bias: Tensor | None

    def __init__(self, layer: Dense, form: Form) -> None:  # noqa: D107
        super().__init__()
        self.shape = tuple(layer.weight.shape)
        self.window = layer.window
        self.form = form
        self.activation = "none"
        for name, part in pack(layer.matrix, form)._asdict().items():
            self.register_buffer(name, part)
        bias = None if layer.bias is None else layer.bias.detach()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for the dense layer's input."""
        last = self.window is None
        x_in = x if last else columns_of(x, self.window)
        weight = (self.blocks, self.groups, self.rows, self.columns, self.values)
        packed = Packed(*weight, self.scales)
        if is_exporting():
            y = _in_torch(x_in, packed, self.bias, self.shape[0], last)
            y = ACTIVATIONS[self.activation](y)
        else:
            tensors = [part for part in packed if part is not None]
            y = torch.ops.sparsefx.packed_mm(
                x_in,
                tensors,
                self.bias,
                self.shape[0],
                self.form.vectors,
                last,
                self.activation,
            )
        return y if last else result_of(y, x, self.window)

    def extra_repr(self) -> str:
        """Shape, form, kept entries, and what follows."""
        kept = self.values.numel()
        return f"{self.shape}, form={self.form}, kept={kept}, {self.activation}"

    def followed_by(self, activation: str) -> PackedLayer:
        """This layer and an activation, on the same packed weights."""
        made = copy.copy(self)
        made.activation = activation
        return made


def _in_torch(
    x: Tensor, packed: Packed, bias: Tensor | None, outputs: int, last: bool
) -> Tensor:
    """What a graph holds that is to run where there is no sparsefx."""
    axis = -1 if last else 1
    x_TK = x.movedim(axis, -1)
    y_NT = in_torch(x_TK.reshape(-1, x.shape[axis]).T.contiguous(), packed, outputs)
    y = y_NT.T if bias is None else y_NT.T + bias
    return y.reshape(*x_TK.shape[:-1], outputs).movedim(-1, axis)
