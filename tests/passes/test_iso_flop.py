"""What the rewrites at equal cost promise, all of them: cost, counts, gradients.

What each of them builds stands in `test_sparse_branches.py` and `test_sparse_wide.py`.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

import sparsefx
from sparsefx.passes import SparseDoped, SparseFactorized, SparseParallel, SparseWide
from sparsefx.passes.iso_flop.record import record_of
from tests.passes.rewritten import recorded, slope
from tests.rewrites import ZOO

MEMBERS = (SparseParallel, SparseFactorized, SparseDoped, SparseWide)


def pairs() -> Iterator[Any]:
    """Every member on some network, and on every network where time does not matter."""
    for i, name in enumerate(ZOO):
        for j, member in enumerate(MEMBERS):
            marks = () if i == 2 * j else (pytest.mark.slow,)
            yield pytest.param(name, member, marks=marks)


@pytest.mark.parametrize(("name", "member"), list(pairs()))
def test_macs_are_equal_to_the_last_one(name: str, member: type[Any]) -> None:
    net, x, graph, dense = recorded(name)
    found = member(density=0.5)(graph)
    record = record_of(found)
    assert record.macs["before"] == record.macs["after"] == dense["maskable"]
    assert record.macs["model_before"] == dense["total"]
    assert found(x).shape == net(x).shape
    for weight, count in record.kept.items():
        assert 0 < count <= found.get_parameter(weight).numel()
    rows = [row for row in sparsefx.costs(found, (x,)) if row.maskable]
    kept = record.kept
    spent = sum(r.number() * kept.get(r.name, r.params) // r.params for r in rows)
    assert spent == dense["maskable"]  # counted anew, from module and counts alone
    by_gradient, by_values = slope(copy.deepcopy(found), x, list(kept))
    assert by_gradient == pytest.approx(by_values, rel=1e-3, abs=1e-6)
    assert by_gradient != 0


WHOLE = [
    pytest.param(name, member, marks=() if i == j else pytest.mark.slow)
    for i, member in enumerate(MEMBERS)
    for j, name in enumerate(["mobilenet", "gpt2"])
]


@pytest.mark.parametrize(("name", "member"), WHOLE)
def test_the_whole_model_at_equal_cost(name: str, member: type[Any]) -> None:
    """Products of activations and norms too, within a weight of the cheapest layer."""
    _, x, graph, dense = recorded(name)
    found = member(density=0.5, iso="model")(graph)
    record = record_of(found)
    macs, rows = record.macs, sparsefx.costs(found, (x,))
    assert macs["model_before"] == dense["total"]
    cheapest = min(rows[n].number() // rows[n].params for n in record.kept)
    before = macs["model_before"] + macs["norms_before"]
    assert 0 <= before - macs["model_after"] - macs["norms_after"] <= cheapest
