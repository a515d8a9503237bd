"""The kernels on a GPU, through Triton; see `sparsefx.kernels.Kernels`.

`masked`, `masked_backward` and `couple` are Triton kernels; the first two are operators
of ``torch.library``, so that a tracer keeps them whole. Under `torch.compile` the plain
version runs instead: Inductor fuses it with the cast and with what stands around it.

The sweeps that answer to the host are taken from the reference: on a GPU a step does
without them, see `sparsefx.kernels.device_solver`.

With ``TRITON_INTERPRET=1`` everything runs on CPU tensors, slowly, without a GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels.reference import (
    couple as _plain_couple,
)
from sparsefx.kernels.reference import (
    hard_masks,
    histogram,
    masked,
    masked_backward,
    soft_sums,
    survey,
)
