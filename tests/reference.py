"""Slow, plain NumPy oracles in float64: what the fast code must equal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """A layer: magnitudes, price, worth, bounds on the kept count."""

    magnitude: Array
    price: float
    worth: float
    lower: int
    upper: int


def sigmoid(z: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def bisect(
    cost: Callable[[float], float], target: float, low: float, high: float
) -> float:
    """The mu at which an increasing function is `target`, to the last bit or so."""
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if cost(middle) < target else (low, middle)
    return middle


def soft_topk(v: Array, c: Array, k: float, beta: float) -> tuple[Array, float]:
    """Mask and multiplier of the entropic problem, 0 < k < sum(c)."""
    z = beta * v / c
    even = np.log(k / (c.sum() - k))
    low, high = even - z.max() - 1, even - z.min() + 1
    mu = bisect(lambda mu: (c * sigmoid(z + mu)).sum(), k, low, high)
    return sigmoid(z + mu), mu


def soft_topk_gradients(
    v: Array, c: Array, k: float, beta: float, upstream: Array
) -> dict[str, Array]:
    """Gradients of ``sum(upstream * mask)`` in closed form."""
    m, _ = soft_topk(v, c, k, beta)
    s = m * (1 - m)
    shared = (upstream * s).sum() / (c * s).sum()
    local = upstream / c - shared
    return {
        "values": beta * s * local,
        "costs": -beta * v / c * s * local - shared * m,
        "budget": shared,
        "beta": (s * v / c * (upstream - shared * c)).sum(),
    }


def hard_topk(v: Array, c: Array, k: float) -> NDArray[np.bool_]:
    """Largest prefix by unit value whose cost fits, ties by index."""
    mask, spent = np.zeros(len(v), bool), 0.0
    for i in np.argsort(-(v / c), kind="stable"):
        spent += c[i]
        if spent > k * (1 + 1e-12):
            break
        mask[i] = True
    return mask


def greedy(
    blocks: Sequence[Block], budget: float, skipping: bool = False
) -> list[NDArray[np.bool_]]:
    """Hard masks: lower bounds first, then one entry after another.

    The first that does not fit is the last that is tried; ``skipping`` it, all are.
    """
    masks = [np.zeros(len(b.magnitude), bool) for b in blocks]
    queue = []
    for layer, block in enumerate(blocks):
        order = np.argsort(-block.magnitude, kind="stable")
        masks[layer][order[: block.lower]] = True
        scale = block.worth / block.price
        for i in order[block.lower : block.upper]:
            queue.append((-(block.magnitude[i] * scale), layer, i))
    queue.sort(key=lambda item: item[0])  # stable: layer, magnitude, index
    counts = [block.lower for block in blocks]
    for _, layer, i in queue:
        counts[layer] += 1
        cost = sum(b.price * n for b, n in zip(blocks, counts, strict=True))
        if cost <= budget * (1 + 1e-12):
            masks[layer][i] = True
        elif skipping:
            counts[layer] -= 1
        else:
            break
    return masks


def clamped(blocks: Sequence[Block], budget: float, beta: float) -> list[Array]:
    """Soft masks of several layers with bounds, least < budget < most."""

    def layer_mask(block: Block, mu: float) -> Array:
        size, z = len(block.magnitude), beta * block.worth * block.magnitude
        z = z / block.price

        def count(mu: float) -> float:
            return sigmoid(z + mu).sum()

        if not block.lower <= count(mu) <= block.upper:
            bound = block.lower if count(mu) < block.lower else block.upper
            if bound in (0, size):
                return np.full(size, float(bound > 0))
            even = np.log(bound / (size - bound))
            mu = bisect(count, bound, even - z.max() - 1, even - z.min() + 1)
        return sigmoid(z + mu)

    def cost(mu: float) -> float:
        return sum(b.price * layer_mask(b, mu).sum() for b in blocks)

    top = max(beta * b.worth * b.magnitude.max() / b.price for b in blocks)
    mu = bisect(cost, budget, -top - 60, 60.0)
    return [layer_mask(block, mu) for block in blocks]


def linear_program(blocks: Sequence[Block], budget: float) -> float:
    """Best ``sum worth * magnitude * mask`` with bounds and cost at most budget."""
    sizes = [len(b.magnitude) for b in blocks]
    value = np.concatenate([b.worth * b.magnitude for b in blocks])
    unit = value.max() or 1.0
    price = np.concatenate(
        [np.full(n, b.price) for b, n in zip(blocks, sizes, strict=True)]
    )
    member = np.repeat(np.arange(len(blocks)), sizes)
    counts = np.stack([member == i for i in range(len(blocks))]).astype(float)
    upper = [b.upper for b in blocks]
    lower = [-b.lower for b in blocks]
    answer = linprog(
        -value / unit,
        A_ub=np.concatenate([price[None] / budget, counts, -counts]),
        b_ub=np.array([1.0, *upper, *lower]),
        bounds=(0, 1),
        method="highs",
        options={
            "primal_feasibility_tolerance": 1e-10,
            "dual_feasibility_tolerance": 1e-10,
        },
    )
    assert answer.success, answer.message
    return -answer.fun * unit


def erk(shapes: Sequence[tuple[int, ...]], density: float) -> list[float]:
    """Erdos-Renyi-kernel densities; layers that would exceed 1 are dense."""
    sizes = np.array([np.prod(shape) for shape in shapes], float)
    raw = np.array([sum(shape) for shape in shapes]) / sizes
    dense = np.zeros(len(shapes), bool)
    while True:
        left = density * sizes.sum() - sizes[dense].sum()
        epsilon = left / (raw * sizes)[~dense].sum()
        answer = np.where(dense, 1.0, epsilon * raw)
        if (answer <= 1.0 + 1e-12).all():
            return answer.tolist()
        dense |= answer > 1.0
