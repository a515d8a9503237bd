"""Functions that keep what they made: out of a recording's way, and left clean."""

import functools
import gc

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

import sparsefx
from sparsefx.tracing.lru_caches import forgotten, function_caches


@functools.lru_cache
def bounded(size: int) -> Tensor:
    return torch.arange(size).float()


@functools.cache
def unbounded(size: int) -> tuple[str, list[Tensor]]:
    return "table", [torch.arange(size).float()]


@functools.cache
def registry() -> dict[int, Tensor]:
    return {}


def registered(size: int) -> Tensor:
    """The usual store: a cached function gives the dict, its users fill it."""
    kept = registry()
    if size not in kept:
        kept[size] = torch.arange(size).float()
    return kept[size]


@functools.cache
def text(size: int) -> str:
    return "x" * size


TABLES = {
    "bounded": bounded,
    "unbounded": lambda size: unbounded(size)[1][0],
    "registry": registered,
}


class Net(nn.Module):
    def __init__(self, table: str) -> None:
        super().__init__()
        self.fc, self.table = nn.Linear(4, 4), table

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + TABLES[self.table](len(text(4)))


@pytest.mark.parametrize("table", TABLES)
def test_what_a_function_keeps_becomes_part_of_the_graph(table: str) -> None:
    net, x = Net(table), torch.randn(3, 4)
    for _ in range(2):  # the second finds what the first has left
        found = sparsefx.capture(net, (x,))
        assert found.whole, found.reasons
        other = torch.randn(5, 4)
        torch.testing.assert_close(found.graphs[""](other), net(other))
        assert "arange" in found.graphs[""].code
        assert not isinstance(TABLES[table](4), FakeTensor)


def test_what_keeps_no_tensor_is_left() -> None:
    text.cache_clear()
    assert text(4) == "xxxx"
    for _ in range(2):
        with forgotten([text]):
            pass
    assert text.cache_info().currsize == 1
    text(5)
    assert text.cache_info().misses == 2


@functools.cache
def mixed(size: int) -> Tensor | int:
    return torch.ones(size) if size > 3 else size


@functools.cache
def knotted() -> list[object]:
    knot: list[object] = [1]
    knot.append(knot)
    return knot


def test_tensors_are_seen_whenever_they_come() -> None:
    mixed.cache_clear()
    mixed(1)
    with forgotten([mixed]):  # nothing yet
        assert mixed.cache_info().currsize == 1
    mixed(4)
    with forgotten([mixed]):
        assert mixed.cache_info().currsize == 0
    registry.cache_clear()
    registry()
    with forgotten([registry]):
        registered(4)  # no call of the function that is cached misses
    assert registry.cache_info().currsize == 0


def test_lists_may_hold_themselves() -> None:
    knotted()
    with forgotten([knotted]):
        assert knotted.cache_info().currsize == 1


def test_caches_are_found_wherever_they_are() -> None:
    class Holder:
        @functools.lru_cache  # noqa: B019 - it goes with the class
        def method(self) -> int:
            return 1

    found = function_caches()
    for cache in (bounded, unbounded, registry, Holder.__dict__["method"]):
        assert any(cache is each for each in found)
    assert not any(each.__module__.partition(".")[0] == "torch" for each in found)


def test_they_are_looked_for_where_one_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, look = [0], gc.get_referrers

    def counted(kind: object) -> list[object]:
        looks[0] += 1
        return look(kind)

    monkeypatch.setattr(gc, "get_referrers", counted)
    first = functools.cache(len)
    function_caches()
    looks[0] = 0
    assert any(each is first for each in function_caches())
    assert looks == [0]
    del first
    second = functools.cache(max)  # as many as before
    assert any(each is second for each in function_caches())
    assert looks == [1]
