"""Roots of a few monotone functions together, one variable after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_TRIES = 80
_SPLIT = 0.02  # a guess keeps at least this share of the bracket on either side


def nested_root(
    excess: Callable[[list[float]], list[float]],
    start: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    tol: float,
) -> list[float]:
    """Minimises a convex function of a few variables by the signs of its derivatives.

    ``-excess`` is the gradient. With the later variables always at their best, the
    excess of a variable falls as it grows, so that each is found by a bracket: no step
    or plateau can mislead it. Slow, for the cases in which Newton's method is lost.

    Args:
        excess: maps variables to one number each.
        start: first guess.
        lows: least values of the variables; where one lies there its excess may be
            negative.
        highs: greatest values.
        tol: how far from 0 the excess may stay.

    Example:
        >>> root = nested_root(
        ...     lambda x: [1 - x[0], -1 - x[1]], [0.0, 5.0], [0.0] * 2, [9.0] * 2, 1e-9)
        >>> [round(value, 6) for value in root]
        [1.0, 0.0]
    """
    x = list(start)

    def settle(level: int) -> list[float]:
        """Finds the variables from `level` on; the excess there."""
        if level == len(x):
            return excess(x)

        def at(value: float) -> float:
            x[level] = value
            return settle(level + 1)[level]

        low, high = lows[level], highs[level]
        guess = min(max(x[level], low), high)
        value = at(guess)
        width = 1e-3 * (high - low)
        ends: dict[bool, tuple[float, float]] = {value > 0: (guess, value)}
        while (
            abs(value) > tol
            and len(ends) < 2
            and guess not in ((low, high)[value > 0],)
        ):
            guess = min(max(guess + (width if value > 0 else -width), low), high)
            value, width = at(guess), 4 * width
            ends[value > 0] = (guess, value)
        for _ in range(_TRIES):
            if abs(value) <= tol or len(ends) < 2:
                break
            (a, fa), (b, fb) = ends[True], ends[False]
            guess = a + (b - a) * min(max(fa / (fa - fb), _SPLIT), 1 - _SPLIT)
            if guess in (a, b):
                break
            value = at(guess)
            if (value > 0) in ends:  # the end that stays counts half the next time
                stays = not value > 0
                end, size = ends[stays]
                ends[stays] = (end, 0.5 * size)
            ends[value > 0] = (guess, value)
        return settle(level + 1)

    settle(0)
    return x
