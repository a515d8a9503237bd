"""What the bands of several layers tell, against counting entry by entry."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsefx.kernels import kernels_for
from sparsefx.solver.magnitude_levels import Ladder

LAYERS = st.lists(
    st.lists(st.integers(-6, 6), min_size=1, max_size=12), min_size=1, max_size=4
)
BANDS = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(sorted)


def of(layers: list[list[int]], band: list[int]) -> tuple[list[Tensor], Ladder]:
    flats = [torch.tensor(layer, dtype=torch.float32) for layer in layers]
    low, high = ([float(end)] * len(flats) for end in band)
    return flats, Ladder.of(kernels_for(flats).survey(flats, low, high))


@given(layers=LAYERS, band=BANDS)
def test_counts_are_those_of_all_entries(
    layers: list[list[int]], band: list[int]
) -> None:
    flats, ladder = of(layers, band)
    for i, flat in enumerate(flats):
        mine = ladder.owner == i
        levels, sizes = ladder.values[mine].tolist(), ladder.counts[mine].tolist()
        size = flat.abs()
        assert levels == sorted(set(levels), reverse=True)
        assert sizes == [int((size == level).sum()) for level in levels]
        reached = [int((size >= level).sum()) for level in levels]
        assert ladder.reach[mine].tolist() == reached
        last = reached[-1] if levels else ladder.above[i]
        assert ladder.bottom[i] == last
        if levels:
            assert ladder.above[i] == reached[0] - sizes[0]


@given(layers=LAYERS, band=BANDS, data=st.data())
def test_rules_keep_so_many_of_the_largest(
    layers: list[list[int]], band: list[int], data: st.DataObject
) -> None:
    flats, ladder = of(layers, band)
    counts = [data.draw(st.integers(0, len(flat))) for flat in flats]
    names = [str(i) for i in range(len(flats))]
    rules = ladder.rules(flats, counts, names)
    for flat, count, (threshold, last) in zip(flats, counts, rules, strict=True):
        order = flat.abs().sort(descending=True, stable=True).indices[:count]
        index = torch.arange(len(flat))
        size = flat.abs()
        kept = (size > threshold) | ((size == threshold) & (index <= last))
        assert set(order.tolist()) == set(index[kept].tolist())
