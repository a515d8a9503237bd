"""The candidates for one layer: modules that compute what the dense layer computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import starmap
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsefx.kernels.sparse_product import Form, usable
from sparsefx.lowering.dense_layer import Dense, columns_of, result_of
from sparsefx.lowering.packed_convolution import PackedConvolution
from sparsefx.lowering.packed_layer import PackedLayer
from sparsefx.lowering.sparse_ops import compressed, gathered_sum, in_aten
from sparsefx.lowering.tiles import Tiling
from sparsefx.lowering.zero_patterns import (
    block_size,
    is_two_of_four,
    kept_lines,
    shares_columns,
)
from sparsefx.torch_internals import is_exporting

Kernel = Literal["gather", "csr", "bsr"]
SPARSEST = 0.6  # a denser matrix is never faster compressed


class NoCandidateError(Exception):
    """Why a layer cannot take a form; the report says it."""


class CompressedLayer(nn.Module):
    """A linear layer or convolution that stores and multiplies only kept weights.

    Attributes:
        offsets, columns, values: the matrix in compressed rows, or rows of blocks.
        bias: ``(out,)`` or None.
        window: what a convolution looks at; None for a linear layer.
        kernel: ``gather`` adds up rows of feature-major tiles, ``csr`` and ``bsr``
            are torch's products of sparse and dense matrices.

    Example:
        >>> layer = Dense("weight", torch.tensor([[0.0, 2.0], [0.0, 0.0]]), None)
        >>> CompressedLayer(layer, "gather")(torch.tensor([[1.0, 3.0]]))
        tensor([[6., 0.]])
    """

    offsets: Tensor
    columns: Tensor
    values: Tensor
    bias: Tensor | None

    def __init__(self, layer: Dense, kernel: Kernel) -> None:  # noqa: D107
        super().__init__()
        size = block_size(layer.matrix) if kernel == "bsr" else None
        if kernel == "bsr" and size is None:
            raise NoCandidateError("no blocks")
        offsets, columns, values = compressed(layer.matrix, size)
        self.kernel = kernel
        self.window = layer.window
        self.shape = tuple(layer.weight.shape)
        self.register_buffer("offsets", offsets)
        self.register_buffer("columns", columns)
        self.register_buffer("values", values)
        bias = None if layer.bias is None else layer.bias.detach()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for the dense layer's input."""
        x_BKT = columns_of(x, self.window)
        batch, _, places = x_BKT.shape
        y_BNT = self.taken_out(self.product(self.laid_out(x_BKT)), batch, places)
        if self.bias is not None:
            y_BNT = y_BNT + self.bias[:, None]
        return result_of(y_BNT, x, self.window)

    def laid_out(self, x_BKT: Tensor) -> Tensor:
        """The input as the kernel takes it: tiles, or one matrix."""
        batch, features, places = x_BKT.shape
        if self.kernel == "gather":
            return Tiling.of(places).cut(x_BKT)
        return x_BKT.transpose(0, 1).reshape(features, batch * places)

    def product(self, x: Tensor) -> Tensor:
        """The sparse product alone."""
        weight = (self.offsets, self.columns, self.values)
        if is_exporting() and self.kernel == "gather":
            tiles, features, width = x.shape
            y_NM = in_aten(x.transpose(0, 1).reshape(features, -1), *weight)
            return y_NM.reshape(-1, tiles, width).transpose(0, 1)
        if is_exporting():
            return in_aten(x, *weight)
        if self.kernel != "gather":
            multiply = getattr(torch.ops.sparsefx, f"{self.kernel}_mm")
        elif x.shape[0] == 1:
            return gathered_sum(x[0], *weight).unsqueeze(0)
        else:
            multiply = torch.ops.sparsefx.tiles_mm
        y: Tensor = multiply(x, *weight)
        return y

    def taken_out(self, y: Tensor, batch: int, places: int) -> Tensor:
        """The kernel's output as ``(batch, out, places)``."""
        if self.kernel == "gather":
            return Tiling.of(places).join(y)
        return y.reshape(-1, batch, places).transpose(0, 1)

    def extra_repr(self) -> str:
        """Shape, kernel, and kept entries."""
        return f"{self.shape}, kernel={self.kernel}, kept={self.values.numel()}"


class CutLayer(nn.Module):
    """A layer without its zero rows and columns; outputs keep their places.

    Example:
        >>> layer = Dense("weight", torch.tensor([[0.0, 2.0], [0.0, 0.0]]), None)
        >>> CutLayer(layer)(torch.tensor([[1.0, 3.0]]))
        tensor([[6., 0.]])
    """

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor | None
    places: Tensor | None

    def __init__(self, layer: Dense) -> None:  # noqa: D107
        super().__init__()
        if layer.window is not None and layer.window.groups > 1:
            raise NoCandidateError("channels in groups keep their places")
        weight = layer.weight.detach()
        rows, _ = kept_lines(weight.flatten(1))
        columns, _ = kept_lines(weight.transpose(0, 1).flatten(1))
        if len(rows) == weight.shape[0] and len(columns) == weight.shape[1]:
            raise NoCandidateError("no zero row or column")
        if not len(rows):
            raise NoCandidateError("nothing left")
        self.window = layer.window
        self.register_buffer("weight", weight[rows][:, columns].contiguous())
        whole = len(columns) == weight.shape[1]
        self.register_buffer("inputs", None if whole else columns)
        places = None
        if len(rows) < weight.shape[0]:
            places = torch.full((weight.shape[0],), len(rows), device=weight.device)
            places[rows] = torch.arange(len(rows), device=weight.device)
        self.register_buffer("places", places)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.data)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for the dense layer's input."""
        axis = -1 if self.window is None else 1
        if self.inputs is not None:
            x = x.index_select(axis, self.inputs)
        y = Dense("", self.weight, None, self.window)(x)
        if self.places is not None:
            nothing = torch.zeros_like(y.narrow(axis, 0, 1))
            y = torch.cat([y, nothing], axis).index_select(axis, self.places)
        if self.bias is None:
            return y
        return y + (self.bias if self.window is None else self.bias[:, None, None])


class SemiStructuredLayer(nn.Module):
    """A linear layer whose 2:4 weight runs on the sparse cores of a GPU."""

    bias: Tensor | None

    def __init__(self, layer: Dense) -> None:  # noqa: D107
        super().__init__()
        weight = layer.weight.detach()
        if layer.window is not None:
            raise NoCandidateError("only linear layers have a 2:4 kernel")
        if not is_two_of_four(layer.matrix):
            raise NoCandidateError("no 2:4 pattern")
        if weight.device.type != "cuda":
            raise NoCandidateError(f"2:4 needs a GPU, this is on {weight.device.type}")
        if weight.dtype not in (torch.float16, torch.bfloat16):
            raise NoCandidateError(f"2:4 needs float16 or bfloat16, not {weight.dtype}")
        sparse: Any = torch.sparse
        packed = sparse.to_sparse_semi_structured(weight.contiguous())
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.data)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output for the dense layer's input."""
        return functional.linear(x, self.weight, self.bias)


def _packed(form: Form, image: Form | None) -> Callable[[Dense], nn.Module]:
    """How a linear layer is packed, and how a convolution."""

    def make(layer: Dense) -> nn.Module:
        if not usable(layer.weight):
            raise NoCandidateError("needs float32, a CPU and a C++ compiler")
        if layer.window is None and shares_columns(layer.matrix, form.together):
            return PackedLayer(layer, form)
        if layer.window is not None and image is not None:
            return PackedConvolution(layer, image)
        raise NoCandidateError(f"no {form.together} rows share their columns")

    return make


def _compressed(kernel: Kernel) -> Callable[[Dense], nn.Module]:
    def make(layer: Dense) -> nn.Module:
        device, dtype = layer.weight.device.type, layer.weight.dtype
        if device == "cpu" and dtype not in (torch.float32, torch.float64):
            raise NoCandidateError(f"torch has no sparse product of {dtype} on a CPU")
        return CompressedLayer(layer, kernel)

    return make


# For near caches, for few weights, for few tokens, and for rows that share columns.
_PACKED = (
    (Form(128, 8), Form(128, 8)),
    (Form(256, 5), Form(256, 8)),
    (Form(4096, 4), Form(512, 6)),
    (Form(256, 3, 4), None),
)

FORMS: Mapping[str, tuple[Callable[[Dense], nn.Module], ...]] = {
    "removal": (CutLayer,),
    "csr": (
        *starmap(_packed, _PACKED),
        _compressed("gather"),
        _compressed("csr"),
    ),
    "bsr": (_compressed("bsr"),),
    "semi_structured": (SemiStructuredLayer,),
}
"""What a layer can become, by the name of the form; one maker a kernel."""
