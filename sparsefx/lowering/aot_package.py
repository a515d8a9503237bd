"""Lowered models as packages that run without Python's tracing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sparsefx.errors import SparsefxError
from sparsefx.lowering.lowered import Lowered
from sparsefx.torch_internals import aoti_package
from sparsefx.tracing.example_calls import as_call


def package(lowered: Lowered, example_inputs: Any, path: str | Path) -> Path:
    """Compiles a lowered model ahead of time into a ``.pt2`` package.

    ``torch._inductor.aoti_load_package(path)`` loads it, also where sparsefx is not
    installed: sparse products are those of torch there, slower than ours.

    Args:
        lowered: what `lower` returned.
        example_inputs: as for `lower`; the sizes are those of the package.
        path: the file to write, ending in ``.pt2``.

    Raises:
        SparsefxError: the model cannot be exported, or this torch cannot compile it
            here; the message says what can be saved instead.

    Example:
        >>> from sparsefx.lowering import lower
        >>> x = torch.ones(1, 4)
        >>> fast = lower(torch.nn.Linear(4, 2), (x,), compile=False)
        >>> package(fast, (x,), "model.zip")
        Traceback (most recent call last):
        ...
        sparsefx.errors.SparsefxError: path is 'model.zip'; a package ends in .pt2
    """
    if Path(path).suffix != ".pt2":
        raise SparsefxError(f"path is {str(path)!r}; a package ends in .pt2")
    args, kwargs = as_call(example_inputs)
    try:
        with torch.no_grad():
            program = torch.export.export(lowered, args, kwargs)
    except Exception as error:
        raise SparsefxError(
            f"torch.export cannot take this model: {_first(error)}; its parts may do: "
            "lower the submodules that matter, and export those"
        ) from error
    try:
        return Path(aoti_package(program, str(path)))
    except Exception as error:
        raise SparsefxError(
            f"torch cannot compile this model ahead of time here: {_first(error)}; on "
            "a CPU it needs a C++ compiler; torch.export.save(torch.export.export("
            "lowered, inputs), path) keeps the graph instead"
        ) from error


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
