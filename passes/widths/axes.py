"""Axes made of channel groups: which sizes of a graph must grow together.

An axis is a list of segments ``(group, repeat)``: the channels of a group, each
repeated so many times in a row, one segment after the other; ``(FIXED, n)`` is ``n``
entries of a size that never changes. Saying that two axes are equal solves for the
groups: a group becomes another group, a multiple of one, or several side by side.
Sizes are known, so this is unification of words with known lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

FIXED = -1
Segment = tuple[int, int]
Axis = tuple[Segment, ...]
_MOST = 1024  # segments of one axis; beyond, the groups are held


class Axes:
    """The groups, what they have been found to be, and why some are held.

    Example:
        >>> axes = Axes()
        >>> wide, left, right = axes.group(12), axes.group(8), axes.group(4)
        >>> axes.equal(wide, (*left, *right))
        >>> axes.sizes(wide)
        [8, 4]
        >>> _ = axes.hold(right, "it is an output")
        >>> axes.width(wide, {axes.found(left)[0][0]: 11})
        15
    """

    def __init__(self) -> None:  # noqa: D107
        self._size: list[int] = []
        self._becomes: dict[int, Axis] = {}
        self.grows: set[int] = set()
        self.reasons: dict[str, str] = {}
        self.where = ""
        self.ordered = False  # the place of each channel matters, not only widths

    def group(self, size: int) -> Axis:
        """An axis of one new group; one of size 1 is fixed."""
        if size == 1:
            return ((FIXED, 1),)
        return ((self._new(size), 1),)

    def _new(self, size: int) -> int:
        self._size.append(size)
        return len(self._size) - 1

    def mark(self, axis: Axis) -> None:
        """Notes that a layer's weights make this axis: its groups may grow."""
        for group, _ in self.found(axis):
            if group != FIXED:
                self.grows.add(group)

    def size(self, axis: Axis) -> int:
        """The size of an axis as it was recorded."""
        return sum(r if g == FIXED else self._size[g] * r for g, r in axis)

    def sizes(self, axis: Axis) -> list[int]:
        """The sizes of its segments."""
        return [self.size((segment,)) for segment in self.found(axis)]

    def size_of(self, group: int) -> int:
        """The recorded size of a group."""
        return self._size[group]

    def live(self, axis: Axis) -> bool:
        """Whether an axis may still change its size."""
        return any(group != FIXED for group, _ in self.found(axis))

    def found(self, axis: Axis) -> Axis:
        """An axis in groups that are not known to be anything else."""
        out: list[Segment] = []
        for group, repeat in axis:
            if group in self._becomes:
                inner = self.found(self._becomes[group])
                parts = [(g, r * repeat) for g, r in inner]
            else:
                parts = [(group, repeat)]
            for part in parts:
                if out and part[0] == FIXED == out[-1][0]:
                    out[-1] = (FIXED, out[-1][1] + part[1])
                else:
                    out.append(part)
        return tuple(out)

    def width(self, axis: Axis, widths: dict[int, int]) -> int:
        """The size of an axis when groups have new sizes."""
        return sum(
            r if g == FIXED else widths.get(g, self._size[g]) * r
            for g, r in self.found(axis)
        )

    def hold(self, axis: Axis, reason: str) -> Axis:
        """Fixes the groups of an axis at their sizes; returns the fixed axis."""
        for group, _ in self.found(axis):
            if group != FIXED and group not in self._becomes:
                self._becomes[group] = ((FIXED, self._size[group]),)
                if group in self.grows and self.where:
                    self.reasons.setdefault(self.where, reason)
        return ((FIXED, self.size(axis)),)

    def _set(self, group: int, axis: Axis) -> None:
        self._becomes[group] = axis
        if group in self.grows:
            self.mark(axis)

    def equal(self, first: Axis, second: Axis) -> None:
        """Makes two axes of one size the same."""
        a, b = list(self.found(first)), list(self.found(second))
        while a and b:
            # what was just learned may concern what is still to be compared
            (x, *a), (y, *b) = self.found(tuple(a)), self.found(tuple(b))
            m, n = self.size((x,)), self.size((y,))
            if m > n:
                x, rest = self._cut(x, n)
                a.insert(0, rest)
            elif n > m:
                y, rest = self._cut(y, m)
                b.insert(0, rest)
            self._match(x, y)

    def _match(self, x: Segment, y: Segment) -> None:
        (g, r), (h, s) = x, y
        if g == h and r == s:
            return
        if FIXED in (g, h) or g == h:
            self.hold((x, y), "its size meets one that cannot change")
        elif r == s:
            self._set(h, ((g, 1),))
        else:
            both = math.lcm(r, s)
            common = self._new(self._size[g] * r // both)
            self._set(g, ((common, both // r),))
            self._set(h, ((common, both // s),))

    def _cut(self, segment: Segment, size: int) -> tuple[Segment, Segment]:
        """A segment in two, the first of a size."""
        group, repeat = segment
        whole = self.size((segment,))
        if group == FIXED or size % repeat:
            self.hold((segment,), "it is cut inside of a channel")
            return (FIXED, size), (FIXED, whole - size)
        first = self._new(size // repeat)
        second = self._new(self._size[group] - size // repeat)
        self._set(group, ((first, 1), (second, 1)))
        return (first, repeat), (second, repeat)

    def between(self, axis: Axis, start: int, stop: int) -> Axis:
        """The entries from ``start`` to ``stop`` of an axis."""
        out: list[Segment] = []
        rest = list(self.found(axis))
        at = 0
        while rest and at < stop:
            segment = rest.pop(0)
            size = self.size((segment,))
            for edge in (start, stop):
                if at < edge < at + size:
                    segment, more = self._cut(segment, edge - at)
                    rest.insert(0, more)
                    size = edge - at
                    break
            if at >= start:
                out.append(segment)
            at += size
        return self.found(tuple(out)) or ((FIXED, 0),)

    def parts(self, axis: Axis, count: int) -> Axis:
        """Makes ``count`` equal parts of an axis the same; returns one."""
        whole = self.found(axis)
        group, repeat = whole[0]
        if len(whole) == 1 and group != FIXED and not self.ordered:
            # a cut inside of a channel's repeats, as of shuffled channels: which
            # channels a part has is not known then, how many it has is
            if repeat % count == 0 and self._size[group] % count:
                return ((group, repeat // count),)
        size = self.size(axis) // count
        first = self.between(axis, 0, size)
        for index in range(1, count):
            self.equal(first, self.between(axis, index * size, (index + 1) * size))
        return self.found(first)

    def copies(self, axis: Axis, count: int) -> Axis:
        """An axis several times, one copy after the other."""
        axis = self.found(axis)
        if not self.live(axis):
            return ((FIXED, self.size(axis) * count),)
        if len(axis) * count > _MOST:
            return self.copies(self.hold(axis, "it is repeated too often"), count)
        return self.found(axis * count)

    def spread(self, axis: Axis, count: int) -> Axis:
        """An axis with each entry several times in a row."""
        return tuple((g, r * count) for g, r in self.found(axis))

    def gathered(self, axis: Axis, count: int) -> Axis:
        """The axis whose `spread` this axis is; holds it where there is none."""
        out: list[Segment] = []
        for group, repeat in self.found(axis):
            rest = count // math.gcd(count, repeat)
            if group == FIXED and repeat % count:
                self.hold(axis, "a fixed part of it is no multiple")
                return ((FIXED, self.size(axis) // count),)
            if group == FIXED or rest == 1:
                out.append((group, repeat // count))
            elif self._size[group] % rest:
                self.hold(axis, "it is no multiple of what it is divided by")
                return ((FIXED, self.size(axis) // count),)
            else:
                inner = self._new(self._size[group] // rest)
                self._set(group, ((inner, rest),))
                out.append((inner, repeat * rest // count))
        return self.found(tuple(out))

    def is_copies(self, axis: Axis, count: int) -> bool:
        """Whether an axis already is so many equal parts."""
        axis = self.found(axis)
        size = len(axis) // count
        return size * count == len(axis) and axis == axis[:size] * count

    def is_spread(self, axis: Axis, count: int) -> bool:
        """Whether an axis already has every entry so many times in a row."""
        return all(repeat % count == 0 for _, repeat in self.found(axis))

    def merge(self, outer: Axis, inner: Axis) -> Axis:
        """The axis that flattening two neighbours gives."""
        if not self.live(inner):
            return self.spread(outer, self.size(inner))
        if self.live(outer):
            self.hold(outer, "it is merged with another one that grows")
        return self.copies(inner, self.size(outer))

    def split(self, axis: Axis, sizes: Sequence[int], grown: int) -> list[Axis]:
        """The axes that un-flattening one gives.

        Args:
            axis: what is divided.
            sizes: recorded sizes, outermost first.
            grown: index in ``sizes`` of the one to grow where the axis does not say.
        """
        if not self.live(axis):
            return [((FIXED, size),) for size in sizes]
        if len(sizes) == 1:
            return [self.found(axis)]
        count, rest = sizes[0], math.prod(sizes[1:])
        if self.is_copies(axis, count) and (grown > 0 or count > 1 < rest):
            part = self.parts(axis, count)
            return [((FIXED, count),), *self.split(part, sizes[1:], max(grown - 1, 0))]
        if self.is_spread(axis, rest) or grown == 0:
            outer = self.gathered(axis, rest)
            return [outer, *(((FIXED, size),) for size in sizes[1:])]
        part = self.parts(axis, count)
        return [((FIXED, count),), *self.split(part, sizes[1:], grown - 1)]
