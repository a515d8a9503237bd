"""A block in which a sparse model is its dense one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from sparsefx.errors import MaskError
from sparsefx.masking.layer_weight import LATENT
from sparsefx.masking.masked_module import unwrapped
from sparsefx.masking.sparse_state import SparseState


@contextlib.contextmanager
def latent(module: nn.Module) -> Iterator[None]:
    """In the block, layers show and compute with their raw weights.

    For surgery that must see them: initialisers that look at what is there, merging
    adapters, copying weights. The model is then the dense one; its masks do not change,
    and are in force again after the block.

    Args:
        module: what `transform` returned, also inside DDP or ``torch.compile``.

    Raises:
        MaskError: the module is not transformed.

    Example:
        >>> import sparsefx, torch
        >>> x, net = torch.ones(1, 4), nn.Linear(4, 2, bias=False)
        >>> sparse = sparsefx.transform(net, budget=0.5, example_inputs=(x,))
        >>> with latent(sparse):
        ...     _ = sparse.weight.data.fill_(1.0)
        ...     print(sparse(x).sum().item())
        8.0
        >>> sparse(x).sum().item() < 8
        True
    """
    root = unwrapped(module)
    shown = [m for m in root.modules() if hasattr(type(m), "_sparsefx_original")]
    if not shown:
        raise MaskError(
            f"latent needs what sparsefx.transform returned; this "
            f"{type(root).__name__} has no masks"
        )
    changed = [m for m in shown if LATENT not in m.__dict__]  # blocks within blocks
    states = [m for m in root.modules() if isinstance(m, SparseState)]
    made = [s.compact for s in states if s.compact is not None and s.compact.widen()]
    for one in changed:
        one.__dict__[LATENT] = True
    try:
        yield
    finally:
        for one in changed:
            one.__dict__.pop(LATENT, None)
        for compact in made:
            compact.narrow()
