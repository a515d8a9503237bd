"""The products of inputs with weights that a running model takes, as matrices.

A linear layer multiplies rows of inputs ``x`` (tokens, inputs) with a weight ``W``
(outputs, inputs); a convolution does so with the patches that its kernel meets, a
matrix for each of its groups. All of them are ``x_g W_g'`` for g = 1..G.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsefx.pruning.torch_attention import python_body
from sparsefx.torch_internals import TorchFunctionMode

# By name of the function: names of its arguments, the weight's, the input's.
_CALLS: Mapping[str, tuple[tuple[str, ...], str, str]] = {
    "linear": (("input", "weight", "bias"), "weight", "input"),
    "addmm": (("input", "mat1", "mat2"), "mat2", "mat1"),
    **dict.fromkeys(
        ("matmul", "__matmul__", "mm"), (("input", "other"), "other", "input")
    ),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d"),
        (
            ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
            "weight",
            "input",
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Form:
    """How a weight reads as G matrices of outputs times inputs.

    Attributes:
        shape: of the weight.
        flipped: inputs come first, as in ``x @ W``.
        groups: of a convolution; 1 elsewhere.

    Example:
        >>> Form((8, 2, 3, 3), groups=4).matrices(torch.ones(8, 2, 3, 3)).shape
        torch.Size([4, 2, 18])
    """

    shape: tuple[int, ...]
    flipped: bool = False
    groups: int = 1

    def matrices(self, weight: Tensor) -> Tensor:
        """The weight, or a mask of it, as (groups, outputs, inputs)."""
        if self.flipped:
            return weight.t()[None]
        return weight.reshape(self.groups, self.shape[0] // self.groups, -1)

    def back(self, matrices: Tensor) -> Tensor:
        """What `matrices` was made of."""
        if self.flipped:
            return matrices[0].t()
        return matrices.reshape(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """One product that a model takes.

    Attributes:
        name: of the weight.
        form: of the weight.
        inputs: what it is multiplied with, as the layer got it.
        window: of a convolution, one number a dimension each: stride, padding of both
            ends together, dilation.
    """

    name: str
    form: Form
    inputs: Tensor
    window: tuple[tuple[int, ...], ...] = ()

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for products of the same rows."""
        x = self.inputs
        form = self.form.shape[1:] if self.window else (), self.form.groups
        return x.data_ptr(), x.shape, x.stride(), x._version, self.window, form

    @property
    def count(self) -> int:
        """Rows of inputs, about: of a convolution, where its stride is 1."""
        inputs = self.inputs.shape[-1] if not self.window else self.form.shape[1]
        return self.inputs.numel() // max(inputs * self.form.groups, 1)

    def rows(self, valid: Tensor | None, most: int | None, seed: int) -> Tensor:
        """The rows of inputs, shape (groups, rows, inputs).

        Args:
            valid: bool, (batch, tokens): those that count, where the input has them.
            most: so many of a convolution's rows are drawn, if there are more.
            seed: of the draw.
        """
        if self.window:
            return self._patches(most, seed)
        x, size = self.inputs, self.inputs.shape[-1]
        if valid is not None and x.shape[:-1] == valid.shape:
            return x[valid][None]
        return x.reshape(1, -1, size)

    def _patches(self, most: int | None, seed: int) -> Tensor:
        kernel = self.form.shape[2:]
        stride, both, dilation = self.window
        x = self.inputs
        if x.ndim == len(kernel) + 1:
            x = x[None]
        ends = [(p // 2, p - p // 2) for p in both]
        x = F.pad(x, [end for pair in reversed(ends) for end in pair])
        for i, size in enumerate(kernel):
            x = x.unfold(2 + i, (size - 1) * dilation[i] + 1, stride[i])
            x = x[..., :: dilation[i]]
        places = (x.shape[0], *x.shape[2 : 2 + len(kernel)])
        count = torch.Size(places).numel()
        chosen = torch.arange(count)
        if most is not None and count > most:
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(count, generator=generator)[:most]
        at = torch.unravel_index(chosen.to(x.device), places)
        found = x.movedim(1, len(kernel) + 1)[at]  # a copy of the chosen alone
        found = found.reshape(len(chosen), self.form.groups, -1)
        return found.transpose(0, 1)


class Weights:
    """Weights by where they lie in memory, to be known again in calls.

    Args:
        named: weights by name.

    Example:
        >>> layer = torch.nn.Linear(3, 2)
        >>> known = Weights([("w", layer.weight)])
        >>> x = torch.ones(5, 3)
        >>> found = known.product(torch.matmul, (x, layer.weight.t()), {})
        >>> found.name, found.form.flipped, found.rows(None, None, 0).shape
        ('w', False, torch.Size([1, 5, 3]))
    """

    def __init__(self, named: Iterable[tuple[str, Tensor]]) -> None:  # noqa: D107
        self._at = {weight.data_ptr(): (name, weight) for name, weight in named}

    def product(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Product | None:
        """The product that a call takes with one of the weights, if it does."""
        called = getattr(func, "__name__", "")
        if called not in _CALLS:
            return None
        names, weights, inputs = _CALLS[called]
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        given = {names[0] if k == "self" else k: v for k, v in given.items()}
        weight, x = given.get(weights), given.get(inputs)
        if not isinstance(weight, Tensor) or not isinstance(x, Tensor):
            return None
        name, own = self._at.get(weight.data_ptr(), ("", weight))
        if not name or weight.numel() != own.numel():
            return None
        if called.startswith("conv"):
            return _convolution(name, given, own) if weight.shape == own.shape else None
        if own.ndim != 2 or weight.ndim != 2:
            return None
        flipped = weight.stride() != own.stride() or weight.shape != own.shape
        if flipped and weight.t().shape != own.shape:
            return None
        form = Form(tuple(own.shape), flipped=flipped == (called == "linear"))
        return Product(name, form, x)


class ProductMode(TorchFunctionMode, ABC):
    """Sees the products that some weights take part in while it is active.

    Attributes:
        weights: whose products are seen.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:  # noqa: D107
        super().__init__()
        self.weights = Weights(weights.items())

    @abstractmethod
    def met(self, product: Product, call: Callable[[], Any]) -> Any:
        """What becomes of a product; ``call`` makes it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Looks at a call, and into torch's own attention."""
        given = kwargs or {}
        body = python_body(func)
        if body is not None:
            with self:
                return body(*args, **given)
        found = self.weights.product(func, args, given)
        if found is None:
            return func(*args, **given)
        return self.met(found, lambda: func(*args, **given))


def _convolution(name: str, given: Mapping[str, Any], weight: Tensor) -> Product:
    size = weight.ndim - 2

    def each(value: Any) -> tuple[int, ...]:
        found = (value,) if isinstance(value, int) else tuple(value)
        return found * size if len(found) == 1 else found

    stride, dilation = each(given.get("stride", 1)), each(given.get("dilation", 1))
    padding = given.get("padding", 0)
    if padding == "same":
        reach = zip(dilation, weight.shape[2:], strict=True)
        both = tuple(d * (k - 1) for d, k in reach)
    else:
        both = tuple(2 * p for p in each(0 if padding == "valid" else padding))
    form = Form(tuple(weight.shape), groups=given.get("groups", 1))
    return Product(name, form, given["input"], (stride, both, dilation))
