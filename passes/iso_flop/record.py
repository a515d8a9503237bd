"""What a rewrite at equal cost promises: how many weights of each layer to keep.

A rewrite of *Sparse-IFT: Sparse Iso-FLOP Transformations for Maximizing Training
Efficiency* (Thangarasa, Saxena, Gupta, Lie, ICML 2024) chooses integer sizes first and
counts second, so that the cost is equal to the last multiplication, not on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from sparsefx.errors import BudgetError, PolicyError

KEY = "sparse_ift"


@dataclass(frozen=True, slots=True)
class IsoFlop:
    """The record that a rewrite leaves in ``graph_module.meta["sparse_ift"]``.

    Attributes:
        member: name of the rewrite.
        kept: for each weight to be masked, how many of its entries are kept.
        energies: for each of them, the sum of squares that its kept entries need so
            that outputs vary as the dense model's do at initialisation.
        left: what was left as it is, by weight or node, with the reason.
        macs: multiply-accumulates of the maskable part ``before`` the rewrite and of
            the kept part ``after``, and of the whole model, ``model_before`` and
            ``model_after``: these, and products of activations. Beside them what norms
            cost at one each for every entry they scale, ``norms_before`` and
            ``norms_after``. All per forward call on the example inputs.
    """

    member: str
    kept: Mapping[str, int]
    energies: Mapping[str, float]
    left: Mapping[str, str] = field(default_factory=dict)
    macs: Mapping[str, int] = field(default_factory=dict)


def record_of(graph_module: fx.GraphModule) -> IsoFlop:
    """The record of the rewrite that made a graph.

    Raises:
        PolicyError: no rewrite at equal cost made this graph.
    """
    found = graph_module.meta.get(KEY)
    if not isinstance(found, IsoFlop):
        raise PolicyError(
            "this graph was not made by a rewrite at equal cost; use SparseWide, "
            "SparseParallel, SparseFactorized or SparseDoped of sparsefx.passes"
        )
    return found


def shared(total: int, sizes: Sequence[int]) -> list[int]:
    """``total`` entries in proportion to ``sizes``, the remainder by largest fraction.

    Args:
        total: how many to share out, at most the sum of ``sizes``.
        sizes: number of entries of each tensor.

    Example:
        >>> shared(8192, [64 * 86, 86 * 128])
        [2731, 5461]
        >>> shared(10, [4, 4, 4])
        [4, 3, 3]
    """
    whole = sum(sizes)
    found = [total * size // whole for size in sizes]
    rests = [total * size % whole for size in sizes]
    for index in sorted(range(len(sizes)), key=lambda i: -rests[i])[
        : total - sum(found)
    ]:
        found[index] += 1
    return found


def shared_by_price(
    total: int, sizes: Sequence[int], prices: Sequence[int]
) -> list[int]:
    """Entries of one density whose prices add up to ``total``, or just below it.

    Whole parts first; then the remainder goes where prices are largest first, so that
    small ones can fill what is left. The rest is 0 if some entry costs 1, or if what
    is left is a multiple of their greatest common divisor and entries are many.

    Args:
        total: MACs to spend.
        sizes: number of entries of each tensor.
        prices: MACs of one entry of each tensor, above 0.

    Raises:
        BudgetError: ``total`` is negative or more than everything costs.

    Example:
        >>> shared_by_price(100, [10, 20], [4, 3])
        [10, 20]
        >>> shared_by_price(50, [10, 20], [4, 3])
        [5, 10]
    """
    whole = sum(n * p for n, p in zip(sizes, prices, strict=True))
    if not 0 <= total <= whole:
        raise BudgetError(
            f"{total:,} MACs are left for the masked weights, which cost from 0 to "
            f"{whole:,}; mask more layers, or choose a higher density"
        )
    found = [total * size // whole for size in sizes]
    left = total - sum(n * p for n, p in zip(found, prices, strict=True))
    order = sorted(range(len(sizes)), key=lambda i: -prices[i])
    for index in order:
        more = min(left // prices[index], sizes[index] - found[index])
        found[index] += more
        left -= more * prices[index]
    return _exact(found, left, sizes, prices)


def _exact(
    found: list[int], left: int, sizes: Sequence[int], prices: Sequence[int]
) -> list[int]:
    """Spends what is left by trading entries of one price for those of another.

    Trades between two tensors suffice where one price is 1 or the prices are coprime.
    """
    for few in range(1, 64):
        for i, price in enumerate(prices):
            if left == 0:
                return found
            give = few * price
            if found[i] < few:
                continue
            for j, other in enumerate(prices):
                more, rest = divmod(left + give, other)
                if j != i and rest == 0 and found[j] + more <= sizes[j]:
                    found[i] -= few
                    found[j] += more
                    left = 0
                    break
    return found


def paid(
    total: int, counts: Mapping[str, int], prices: Mapping[str, int]
) -> dict[str, int]:
    """Takes so many MACs from all weights alike, or a little more than that.

    Args:
        total: MACs to save.
        counts: kept entries, by weight.
        prices: MACs of one entry, by weight.

    Raises:
        BudgetError: the weights do not cost that much.

    Example:
        >>> paid(30, {"a": 100, "b": 100}, {"a": 2, "b": 1})
        {'a': 90, 'b': 90}
    """
    names = list(counts)
    spent = sum(counts[name] * prices[name] for name in names)
    found = shared_by_price(
        spent - total, [counts[n] for n in names], [prices[n] for n in names]
    )
    return dict(zip(names, found, strict=True))
