r"""Weight decay of what factors stand for: of their product, not of each by itself.

A layer of `SparseFactorized` multiplies by :math:`V` after :math:`U` (linear where no
activation is between), one of `SparseDoped` by :math:`S + V U`. Decay of ``U`` and
``V`` pulls at their own sizes, which the product does not know; folded, it is that of
the dense layer:

    penalty = sum over layers  ||S + V U||^2      (S = 0 for `SparseFactorized`)

Source: the optional folded decay in the code of Sparse-IFT (Thangarasa, Saxena, Gupta,
Lie, ICML 2024, arXiv 2303.11525).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sparsefx.errors import MaskError
from sparsefx.passes.iso_flop.factor_pair import FACTORS
from sparsefx.training.build_rewritten import record_of_root

_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def folded_decay(module: nn.Module) -> Tensor:
    """The sum of squares of all that pairs of factors (and weights beside them) are.

    Add ``decay / 2`` times it to the loss, and give these parameters no other decay.
    Weights are read as the model multiplies by them, masks and all, and gradients
    flow to kept entries.

    Args:
        module: what `sparsefx.transform` made of a model with the rewrite
            ``sparse_factorized`` or ``sparse_doped``.

    Raises:
        MaskError: the model has no factors.

    Example:
        >>> import sparsefx
        >>> net = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 64))
        >>> x = (torch.ones(2, 4),)
        >>> sparse = sparsefx.transform(net, "sparse_doped", example_inputs=x)
        >>> folded_decay(sparse).requires_grad
        True
    """
    record = record_of_root(module)
    total, ending = [], f".{FACTORS[0]}"
    for name, _ in list(module.named_parameters()):
        if not f".{name}".endswith(ending):
            continue
        path = f".{name}".removesuffix(ending)[1:]
        owner = module.get_submodule(path)
        first, second = (_read(owner, factor) for factor in FACTORS)
        if _transposed(module, f"{path}.{FACTORS[1]}".lstrip(".")):
            product = first.flatten(1).mT @ second.flatten(1)
        else:
            product = second.flatten(1) @ first.flatten(1)
        if record.member == "sparse_doped":
            product = product + _read(owner, "weight").flatten(1)
        total.append(product.square().sum())
    if not total:
        raise MaskError(
            f"the rewrite {record.member} makes no factors, so no product to decay; "
            "use sparse_factorized or sparse_doped, or the optimizer's own decay"
        )
    return torch.stack(total).sum()


def _read(owner: nn.Module, name: str) -> Tensor:
    """A weight as the model multiplies by it."""
    path, _, attribute = name.rpartition(".")
    found = getattr(owner.get_submodule(path), attribute)
    assert isinstance(found, Tensor)
    return found


def _transposed(module: nn.Module, name: str) -> bool:
    """Whether a weight, masked or not, is that of a transposed convolution."""
    assert isinstance(module.graph, fx.Graph)
    reads = [n for n in module.graph.nodes if n.op == "get_attr" and n.target == name]
    users = [user for node in reads for user in node.users]
    users += [user for node in users for user in node.users]
    return any(user.target in _TRANSPOSED for user in users)
