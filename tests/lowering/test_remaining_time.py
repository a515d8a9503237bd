"""A lowering report says where the time goes, and what would help there."""

import pytest

from sparsefx.lowering.lowering_report import LayerChoice, Lowering
from sparsefx.lowering.remaining_time import BETWEEN, advice, shares, where


def layer(name: str, ms: float, density: float, chosen: str = "csr") -> LayerChoice:
    times = {"dense": 2 * ms, chosen: ms}
    return LayerChoice(name, "linear", (8, 8), density, chosen, 2.0, times, {})


def report(*rows: LayerChoice, whole: float = 0.0, compiled: bool = True) -> Lowering:
    times = {"dense": 20.0, "lowered": whole} if whole else {}
    return Lowering(rows, "auto", "cpu", times, "", compiled)


def test_parts_add_up_to_the_whole() -> None:
    parts = shares(report(layer("a", 1, 0.1), layer("b", 3, 0.1), whole=8))
    assert list(parts.items()) == [("b", 3 / 8), ("a", 1 / 8), (BETWEEN, 1 / 2)]


def test_layers_that_were_slower_alone_leave_nothing_between() -> None:
    parts = shares(report(layer("a", 6, 0.1), layer("b", 4, 0.1), whole=8))
    assert parts == {"a": 0.6, "b": 0.4, BETWEEN: 0.0}


def test_small_layers_share_a_number() -> None:
    rows = [layer(name, 2, 0.1) for name in "abcde"]
    line = "time: a 10 %, b 10 %, c 10 %, 2 more layers 20 %, between the layers 50 %"
    assert where(report(*rows, whole=20)) == line


@pytest.mark.parametrize(
    ("told", "given"),
    [
        ("compile=True", report(layer("a", 1, 0.1), whole=8, compiled=False)),
        ('policy "units"', report(layer("a", 1, 0.1), whole=8)),
        ("fc keeps 80 %", report(layer("fc", 6, 0.8, "dense"), whole=8)),
        ("{'max_density': 0.3}", report(layer("fc.weight", 6, 0.8, "dense"))),
        ("block:4x1", report(layer("a", 1, 0.9, "dense"), layer("b", 6, 0.1), whole=8)),
    ],
)
def test_advice_is_for_what_takes_most(told: str, given: Lowering) -> None:
    assert told in advice(given)
    assert str(given).endswith(advice(given))


def test_no_advice_where_nothing_was_timed() -> None:
    assert advice(report()) == where(report()) == ""
    dense = report(layer("a", 3, 0.1, "dense"), whole=4)
    assert advice(dense) == ""  # it was tried, and lost


def test_a_notebook_shows_table_and_verdict() -> None:
    cell = report(layer("a", 1, 0.1), whole=8)._repr_html_()
    assert "<td>a</td>" in cell
    assert "<p>time: a 12 %, between the layers 88 %</p>" in cell
