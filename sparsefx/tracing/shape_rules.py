"""Operations whose result is described, not computed, while a graph is recorded.

Fake tensors unroll a recurrent layer step by step, which takes minutes for long
inputs; its shapes are known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def recurrent_shapes(
    data: Tensor,
    hidden: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Outputs of ``torch.lstm``, ``gru``, ``rnn_tanh`` and ``rnn_relu``, unfilled.

    Args:
        data: shape (batch, tokens, width), or (tokens, batch, width).
        hidden: the first states, each (layers * directions, batch, width).
        weights: all parameters, in torch's order.
        has_biases: they hold biases.
        num_layers: layers on top of one another.
        dropout: rate between layers; does not change shapes.
        train: likewise.
        bidirectional: there are two directions.
        batch_first: which of the two shapes ``data`` has.

    Example:
        >>> layer = torch.nn.GRU(3, 4)
        >>> first = torch.zeros(1, 5, 4)
        >>> weights = list(layer.parameters())
        >>> out, last = recurrent_shapes(
        ...     torch.zeros(7, 5, 3), first, weights, True, 1, 0.0, True, False, False)
        >>> out.shape, last.shape
        (torch.Size([7, 5, 4]), torch.Size([1, 5, 4]))
    """
    states = [hidden] if isinstance(hidden, Tensor) else list(hidden)
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    out = data.new_empty((*data.shape[:2], width))
    finals = [torch.empty_like(state) for state in states]
    follows = (data, *states, *weights)
    if torch.is_grad_enabled() and any(t.requires_grad for t in follows):
        out, *finals = [value.requires_grad_() for value in (out, *finals)]
    return (out, *finals)


def grouped_shape(
    rows: Tensor, weights: Tensor, offs: Tensor | None = None, **options: Any
) -> Tensor:
    """Output of a grouped matrix product: runs of rows, each by a matrix of its own.

    Args:
        rows: shape (tokens, width).
        weights: shape (groups, width, out).
        offs: where each run of rows ends.
        options: what changes no shape.

    Example:
        >>> grouped_shape(torch.ones(5, 4), torch.ones(2, 4, 3)).shape
        torch.Size([5, 3])
    """
    # an ordinary product of the same shape: gradients and types follow from it
    return rows @ weights[0]


SHAPES: Mapping[Any, Callable[..., Any]] = {
    getattr(torch, name): recurrent_shapes
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}
"""Functions that give the outputs of an operation from its arguments."""


def described(func: Any, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    """The function that describes a call, if there is one.

    A packed sequence (lengths in the place of the states) has none.
    """
    name = getattr(func, "__name__", "")
    if name in ("_grouped_mm", "grouped_mm"):
        return grouped_shape if args[0].ndim == 2 and args[1].ndim == 3 else None
    rule = SHAPES.get(func)
    if rule is None or len(args) != 9 or not isinstance(args[3], bool):
        return None
    return rule
