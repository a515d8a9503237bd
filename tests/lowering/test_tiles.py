"""Tiles of tokens: narrow, aligned, and undone exactly."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsefx.lowering.tiles import LINE, WIDEST, Tiling, feature_last, feature_major


@given(st.integers(1, 2000))
def test_tiles_are_aligned_narrow_and_waste_little(tokens: int) -> None:
    tiling = Tiling.of(tokens)
    assert tiling.width % LINE == 0
    assert tiling.width <= WIDEST
    assert 0 <= tiling.pieces * tiling.width - tokens < LINE * tiling.pieces


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 700))
def test_cutting_and_joining_undo_each_other(
    batch: int, features: int, tokens: int
) -> None:
    x = torch.arange(batch * features * tokens).reshape(batch, features, tokens)
    tiling = Tiling.of(tokens)
    tiles = tiling.cut(x)
    assert tiles.shape == (batch * tiling.pieces, features, tiling.width)
    assert torch.equal(tiling.join(tiles), x)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=3), st.integers(1, 5))
def test_feature_major_and_back(sizes: list[int], features: int) -> None:
    x = torch.randn(*sizes, features)
    assert torch.equal(feature_last(feature_major(x), x.shape), x)
