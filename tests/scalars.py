"""Mask parameters of one site, for tests of what takes them."""

import torch
from torch import Tensor

from sparsefx.kernels.bits import pack
from sparsefx.kernels.mask_rule import MaskScalars, hard_mask, magnitude


def site_scalars(
    mu: float = 0.3, slope: float = 4.0, center: float = 0.8
) -> MaskScalars:
    """Tensors of one entry, float64."""

    def double(x: float) -> Tensor:
        return torch.tensor([x], dtype=torch.float64)

    return MaskScalars(double(mu), double(slope), double(center))


def bits_above(weight: Tensor, threshold: float = 0.5, last: int = 40) -> Tensor:
    """Bits of what is above a threshold, or equal and not after `last`."""
    return pack(hard_mask(magnitude(weight), threshold, last))
