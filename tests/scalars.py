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

    def double(x: float) -> torch.Tensor:
        return torch.tensor([x], dtype=torch.float64)

    return MaskScalars(
        double(mu),
        double(slope),
        double(center),
        double(threshold),
        torch.tensor([last]),
        double(through),
    )
