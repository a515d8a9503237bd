"""Exact choices of entries: the largest, the affordable, the random; ties by index."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsefx.kernels.mask_rule import hard_mask
from sparsefx.learners.learner import Situation
from sparsefx.solver.hard_masks import solve_hard
from sparsefx.solver.layer import Layer
from sparsefx.solver.magnitude_histogram import rank


def largest(values: Tensor, count: int, name: str) -> Tensor:
    """Keeps the ``count`` largest magnitudes, ties by the lowest index.

    Args:
        values: flat, float32 or float64; signs do not matter.
        count: entries to keep, in [0, n].
        name: the weight's name, for the error.

    Raises:
        MaskError: an entry is NaN or infinite.

    Example:
        >>> largest(torch.tensor([1.0, -3.0, 1.0, 0.5]), 2, "w").tolist()
        [True, True, False, False]
    """
    if values.numel() == 0:
        return torch.zeros(0, dtype=torch.bool, device=values.device)
    threshold, last = rank(values, name).threshold(count)
    return hard_mask(values.abs(), threshold, last)


def inside(mask: Tensor, chosen: Tensor) -> Tensor:
    """The choice among a mask's entries, as a mask of everything.

    Example:
        >>> mask = torch.tensor([True, False, True])
        >>> inside(mask, torch.tensor([False, True])).tolist()
        [False, False, True]
    """
    return torch.zeros_like(mask).masked_scatter_(mask, chosen)


def affordable(
    situation: Situation,
    among: Sequence[Tensor] | None = None,
    budget: float | None = None,
    limits: Sequence[tuple[int, int]] | None = None,
) -> list[Tensor]:
    """The entries worth most per cost that the budget pays: the largest prefix.

    Entries are bought by ``worth |value| / price``, the best first, ties by site and
    index, until one does not fit; within the limits of each site. With equal prices
    and worths that is the global magnitude prune. Sites that cost nothing keep
    everything.

    Args:
        situation: values, prices, worths; budget and limits, unless given.
        among: the entries that may be kept; None allows all.
        budget: cost allowed.
        limits: least and greatest number of entries; clipped to what may be kept.

    Returns:
        Flat bool masks; their cost is never above the budget.

    Raises:
        BudgetError: the least numbers cost more than the budget.
        MaskError: a value that may be kept is NaN or infinite.

    Example:
        >>> s = Situation(names=["a", "b"], values=[torch.tensor([3.0, 1.0]),
        ...     torch.tensor([2.0])], prices=[1.0, 1.0], worths=[1.0, 1.0],
        ...     limits=[(0, 2), (0, 1)], budget=2.0)
        >>> [mask.tolist() for mask in affordable(s)]
        [[True, False], [True]]
    """
    budget = situation.budget if budget is None else budget
    limits = situation.limits if limits is None else limits
    pools = [
        value if among is None else value[among[i]]
        for i, value in enumerate(situation.values)
    ]
    kept = [torch.ones_like(pool, dtype=torch.bool) for pool in pools]
    layers, places = [], []
    for i, (pool, (low, high)) in enumerate(zip(pools, limits, strict=True)):
        price, size = situation.prices[i], pool.numel()
        if price > 0 and size and low < situation.values[i].numel():
            layers.append(
                Layer(pool, price, situation.worths[i], min(low, size), min(high, size))
            )
            places.append(i)
        else:
            budget -= price * size
    if layers:
        names = [situation.names[i] for i in places]
        found = solve_hard(layers, budget, names=names)
        for i, layer, rule in zip(places, layers, found.rules, strict=True):
            kept[i] = hard_mask(layer.magnitude.abs(), *rule)
    if among is None:
        return kept
    return [inside(mask, chosen) for mask, chosen in zip(among, kept, strict=True)]


def randomly(sizes: Sequence[int], counts: Sequence[int], seed: int) -> list[Tensor]:
    """Random masks with exact counts, on the CPU; the same for the same seed.

    Example:
        >>> [int(m.sum()) for m in randomly([10, 4], [3, 4], seed=1)]
        [3, 4]
    """
    generator = torch.Generator().manual_seed(seed)
    masks = []
    for size, count in zip(sizes, counts, strict=True):
        mask = torch.zeros(size, dtype=torch.bool)
        mask[torch.randperm(size, generator=generator)[:count]] = True
        masks.append(mask)
    return masks


def one_each(
    limits: Sequence[tuple[int, int]],
    prices: Sequence[float],
    sizes: Sequence[int],
    budget: float,
) -> list[tuple[int, int]]:
    """Limits that let no layer vanish, as far as half the budget pays for that.

    A site that may keep entries must keep one. Where numbers are fixed, those that
    were 0 become 1 and the site that costs most gives up as much.

    Example:
        >>> one_each([(0, 9), (4, 4), (0, 0)], [1.0, 1.0, 2.0], [9, 9, 9], 8.0)
        [(1, 9), (2, 2), (1, 1)]
    """
    found = list(limits)
    bare = [i for i, (low, _) in enumerate(limits) if low == 0 and sizes[i]]
    if sum(prices[i] for i in bare) > budget / 2:
        return found
    for i in bare:
        low, high = found[i]
        if high > 0 and low < high:
            found[i] = (1, high)
            continue
        fixed = [j for j, (a, b) in enumerate(found) if a == b > 1 and prices[j] > 0]
        giver = max(fixed, key=lambda j: prices[j] * found[j][0], default=None)
        if giver is None:
            continue
        # rounded up: what is given up must pay for the new entry
        given = -int(-prices[i] // prices[giver])
        if found[giver][0] > given:
            found[giver] = (found[giver][0] - given,) * 2
            found[i] = (1, 1)
    return found
