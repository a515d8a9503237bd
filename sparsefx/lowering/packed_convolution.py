"""A convolution whose kept weights are packed, and what follows it, in one product."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from sparsefx.kernels.sparse_convolution import After, unfolded
from sparsefx.kernels.sparse_product import Form, Packed, pack
from sparsefx.lowering.dense_layer import Dense
from sparsefx.torch_internals import is_exporting


class PackedConvolution(nn.Module):
    """A convolution by the kernel of `sparse_convolution`.

    Attributes:
        blocks, groups, rows, columns, values: the weight, as `Packed` says.
        scale, shift: of every output, ``(out,)``, or None.
        relu: whether what is below zero becomes zero.
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
        self.relu = False
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
            after = After(self.scale, self.shift, self.relu)
            return unfolded(x, packed, self.window, after, self.shape[0])
        y: Tensor = torch.ops.sparsefx.packed_conv(
            x,
            list(packed[:5]),
            self.scale,
            self.shift,
            self.relu,
            self.window,
            self.shape[0],
            self.form.vectors,
        )
        return y

    def extra_repr(self) -> str:
        """Shape, form, kept entries, and what follows."""
        kept = self.values.numel()
        after = ", scaled" * (self.scale is not None) + ", relu" * self.relu
        return f"{self.shape}, form={self.form}, kept={kept}{after}"

    def followed_by(self, norm: nn.BatchNorm2d) -> PackedConvolution:
        """This layer and a norm of running statistics, on the same packed weights."""
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        scale = (var.double() + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.double()
        start = -mean.double() if self.shift is None else self.shift - mean.double()
        shift = scale * start if norm.bias is None else scale * start + norm.bias
        return self._with(scale=scale.to(mean.dtype), shift=shift.to(mean.dtype))

    def with_relu(self) -> PackedConvolution:
        """This layer and a ReLU, on the same packed weights."""
        made = self._with()
        made.relu = True
        return made

    def _with(self, **buffers: Tensor) -> PackedConvolution:
        made = copy.copy(self)
        made._buffers = {**self._buffers, **buffers}
        return made.requires_grad_(False)


def fold(graph: fx.Graph, held: dict[str, nn.Module]) -> None:
    """Puts norms and ReLUs that follow a packed convolution into it, in place.

    Args:
        graph: of an eval model.
        held: its modules by name; what changes has the same name.

    Example:
        >>> from sparsefx.lowering.dense_layer import Window
        >>> window = Window((1, 1), (1, 1), (0, 0), (1, 1))
        >>> layer = Dense("w", torch.ones(1, 1, 1, 1), None, window)
        >>> held = {"c": PackedConvolution(layer, Form(128, 8))}
        >>> graph = fx.Graph()
        >>> _ = graph.output(graph.call_function(
        ...     functional.relu, (graph.call_module("c", (graph.placeholder("x"),)),)))
        >>> fold(graph, held)
        >>> held["c"].relu, [node.name for node in graph.nodes]
        (True, ['x', 'c', 'output'])
    """
    for node in list(graph.nodes):
        layer = held.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(layer, PackedConvolution):
            continue
        norm = _only_user(node)
        if norm is not None and norm.op == "call_module":
            module = held[str(norm.target)]
            if type(module) is nn.BatchNorm2d and module.running_mean is not None:
                layer = layer.followed_by(module)
                _drop(graph, norm, node)
        after = _only_user(node)
        if after is not None and after.target in (functional.relu, torch.relu):
            layer = layer.with_relu()
            _drop(graph, after, node)
        held[str(node.target)] = layer


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].all_input_nodes == [node] else None


def _drop(graph: fx.Graph, node: fx.Node, before: fx.Node) -> None:
    node.replace_all_uses_with(before)
    graph.erase_node(node)
