"""Mask parameters of one site, for tests of what takes them."""

import torch

from sparsefx.kernels.mask_rule import MaskScalars


def site_scalars(
    mu: float = 0.3,
    slope: float = 4.0,
    center: float = 0.8,
    threshold: float = 0.5,
    last: int = 40,
    through: float = 1.0,
) -> MaskScalars:
    """Tensors of one entry, float64 and (`last`) int64."""
    floats = [
        torch.tensor([x], dtype=torch.float64)
        for x in (mu, slope, center, threshold, through)
    ]
    return MaskScalars(*floats[:4], torch.tensor([last]), floats[4])
