"""A layer as the lowering sees it: a dense weight, and how its input meets it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsefx.lowering.tiles import feature_last, feature_major


@dataclass(frozen=True, slots=True)
class Window:
    """What a two-dimensional convolution looks at.

    Attributes:
        kernel: height and width of the kernel.
        stride: steps of the window.
        padding: zeros added on both sides.
        dilation: distance of the kernel's entries.
        groups: of channels that are convolved apart.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int = 1

    @property
    def is_point(self) -> bool:
        """Whether it is one pixel: the convolution is a product of matrices as is."""
        ones, none = (1, 1), (0, 0)
        return self.kernel == ones and self.stride == ones and self.padding == none

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result.

        Example:
            >>> Window((3, 3), (2, 2), (1, 1), (1, 1)).size(8, 7)
            (4, 4)
        """
        found = [
            (size + 2 * pad - step * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pad, step in zip(
                (height, width),
                self.kernel,
                self.stride,
                self.padding,
                self.dilation,
                strict=True,
            )
        ]
        return found[0], found[1]


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """One call of a layer: what a candidate must compute.

    Attributes:
        name: the weight's name.
        weight: ``(out, in)`` or ``(out, in, height, width)``.
        bias: ``(out,)`` or None.
        window: what a convolution looks at; None for a linear layer.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    window: Window | None = None

    @property
    def matrix(self) -> Tensor:
        """The weight as a matrix, a column for each feature of `columns_of`."""
        weight = self.weight.detach().flatten(1)
        groups = 1 if self.window is None else self.window.groups
        if groups == 1:
            return weight
        blocks: Tensor = torch.block_diag(*weight.chunk(groups))
        return blocks

    @property
    def op(self) -> str:
        """``linear`` or ``conv2d``."""
        return "linear" if self.window is None else "conv2d"

    @property
    def density(self) -> float:
        """Share of the weights that are not zero, in [0, 1]."""
        return self.weight.count_nonzero().item() / max(self.weight.numel(), 1)

    def __call__(self, x: Tensor) -> Tensor:
        """The dense layer's output."""
        if self.window is None:
            return functional.linear(x, self.weight, self.bias)
        view = self.window
        return functional.conv2d(
            x,
            self.weight,
            self.bias,
            view.stride,
            view.padding,
            view.dilation,
            view.groups,
        )


def columns_of(x: Tensor, window: Window | None) -> Tensor:
    """A layer's input as ``(batch, features, places)``: the matrix times it.

    Example:
        >>> columns_of(torch.ones(2, 3, 8, 8), Window((3, 3), (1, 1), (0, 0), (1, 1))
        ...     ).shape
        torch.Size([2, 27, 36])
    """
    if window is None:
        return feature_major(x)
    if window.is_point:
        return x.flatten(2)
    return functional.unfold(
        x, window.kernel, window.dilation, window.padding, window.stride
    )


def result_of(y_BNT: Tensor, x: Tensor, window: Window | None) -> Tensor:
    """The layer's output from the product ``(batch, out, places)``.

    Example:
        >>> result_of(torch.ones(1, 5, 12), torch.ones(3, 4, 8), None).shape
        torch.Size([3, 4, 5])
    """
    if window is None:
        return feature_last(y_BNT, tuple(x.shape))
    return y_BNT.reshape(*y_BNT.shape[:2], *window.size(x.shape[2], x.shape[3]))


def of_module(name: str, module: nn.Module) -> Dense | None:
    """A module as a layer, or None if it computes something else.

    Example:
        >>> of_module("head", nn.Linear(4, 2)).name
        'head.weight'
    """
    if type(module) is nn.Linear:
        return Dense(_joined(name), module.weight, module.bias)
    if type(module) is not nn.Conv2d or module.padding_mode != "zeros":
        return None
    settings = (module.stride, module.padding, module.dilation, module.groups)
    window = window_of(module.weight, *settings)
    if window is None:
        return None
    return Dense(_joined(name), module.weight, module.bias, window)


def window_of(
    weight: Tensor, stride: object, padding: object, dilation: object, groups: object
) -> Window | None:
    """The window of a convolution, or None if it has unusual padding.

    Example:
        >>> window_of(torch.ones(4, 3, 1, 1), 1, 0, 1, 1).is_point
        True
    """
    steps, zeros, gaps = pair(stride), pair(padding), pair(dilation)
    known = isinstance(groups, int) and weight.ndim == 4
    if not (known and steps and zeros and gaps):
        return None
    kernel = weight.shape[2], weight.shape[3]
    return Window(kernel, steps, zeros, gaps, int(str(groups)))


def pair(value: object) -> tuple[int, int] | None:
    """One number or two as two; None if they are something else.

    Example:
        >>> pair(3), pair((1, 2)), pair("same")
        ((3, 3), (1, 2), None)
    """
    found = (value,) if isinstance(value, int) else value
    if not isinstance(found, (tuple, list)) or len(found) not in (1, 2):
        return None
    if not all(isinstance(item, int) for item in found):
        return None
    return int(found[0]), int(found[-1])


def _joined(path: str) -> str:
    return f"{path}.weight" if path else "weight"
