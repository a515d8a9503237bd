"""Fake twins of example inputs, whose common first size is a symbol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx

from sparsefx.errors import CaptureError
from sparsefx.torch_internals import (
    FakeTensorMode,
    fake_input,
    has_fixed_sizes,
    python_kernels,
)
from sparsefx.tracing.node_spelling import is_constant
from sparsefx.tracing.node_values import NodeValues

ONE_BATCH = "one_batch"  # in the meta of a graph module: why it holds for one batch


def symbolic_inputs(
    fake: FakeTensorMode, values: NodeValues, leaves: Sequence[Any], dynamic_batch: bool
) -> list[Any]:
    """Fake twins of the example inputs' leaves, each tensor with its placeholder."""
    batch = batch_size(leaves) if dynamic_batch else None
    flat = []
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            if not is_constant(leaf):
                raise CaptureError(
                    f"an input is a {type(leaf).__name__}, of which a graph could see "
                    "no change"
                )
            flat.append(leaf)
            continue
        free = [batch is not None and leaf.ndim > 0 and leaf.shape[0] == batch]
        dims = (free + [False] * leaf.ndim)[: leaf.ndim]
        twin = fake_input(fake, leaf.detach(), dims)
        twin.requires_grad_(leaf.requires_grad)
        name = f"x_{index}" if index else "x"  # `input` is taken: fx renames it
        node = values.graph.placeholder(name)
        values.keep(twin, node)
        if dims and dims[0]:
            size: Any = twin.shape[0]
            values.sizes.setdefault(size.node.expr, (node, 0))
        flat.append(twin)
    return flat


def batch_size(leaves: Sequence[Any]) -> int | None:
    """The first size shared by most tensors, or None if it is below 2.

    Example:
        >>> import torch
        >>> batch_size([torch.ones(3, 4), torch.ones(3), 2.0])
        3
    """
    sizes = [leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
    if not sizes:
        return None
    common = max(sizes, key=sizes.count)
    return common if common >= 2 else None


@contextmanager
def on_fakes(mode: FakeTensorMode) -> Iterator[None]:
    """Runs calls on the mode's fake tensors, whose symbolic sizes must stay symbols.

    Raises:
        CaptureError: a call has made one a number.
    """
    with python_kernels(), mode:
        yield
    if has_fixed_sizes(mode):
        raise CaptureError("the batch size decides which code runs")


def check_any_batch(graph_module: fx.GraphModule) -> None:
    """For those who use a graph without the guards of the module it was recorded from.

    Raises:
        CaptureError: it holds for one batch size, and its module for others.
    """
    reason = graph_module.meta.get(ONE_BATCH)
    if reason:
        raise CaptureError(
            f"this graph holds only for the batch size of example_inputs ({reason}), "
            "and would run wrongly, or not at all, with another"
        )
