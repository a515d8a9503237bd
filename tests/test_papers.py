"""The tables of docs/papers.md name tests that exist, or say why there are none."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from paper_rows import WHY, Row, places, rows, verdict
from training.spectral_correlation import correlation, table


def test_each_row_has_tests_or_a_reason() -> None:
    found = list(rows())
    assert len({row.paper for row in found}) == 4
    assert len({(row.paper, row.name) for row in found}) == len(found)
    for row in found:
        if row.why.startswith(WHY):
            assert len(row.why) > len(WHY) + 20, row.name
            continue
        assert row.tests, row.name
        missing = [name for name in row.tests if name not in places()]
        assert not missing, f"{row.name}: no such tests {missing}"


def test_a_row_is_right_where_all_its_tests_pass() -> None:
    row = Row("a paper", "a row", ("test_a", "test_b"), "`test_a`, `test_b`")
    seen = {"test_a": {"PASSED"}, "test_b": {"PASSED"}}
    assert verdict(row, seen) == "right, tested"
    assert verdict(row, {**seen, "test_b": {"PASSED", "FAILED"}}) == "WRONG: test_b"
    assert verdict(row, {"test_b": {"PASSED"}}) == "WRONG: test_a"  # it did not run
    reason = f"{WHY}nobody needs it"
    assert verdict(Row("a paper", "a row", (), reason), {}) == reason


def test_rank_correlations_of_kept_runs() -> None:
    rising = [(float(i), float(i**3)) for i in range(12)]
    assert correlation(rising)[0] == pytest.approx(1.0)
    pairs = [(0.0, 3.0), (1.0, 1.0), (2.0, 4.0), (3.0, 2.0), (4.0, 5.0)]
    rho, low, high = correlation(pairs * 3)
    # 1 - 6 sum d^2 / (n (n^2 - 1)) of the five, with ranks shared by equal runs
    assert rho == pytest.approx(0.5)
    assert -1 <= low <= rho <= high <= 1
    runs = [
        {"member": "sparse_wide", "density": 0.5, "test": y, "ramanujan_gap": x}
        for x, y in rising
    ]
    text = table([*runs, {"member": "dense", "test": 99.0, "ramanujan_gap": 99.0}])
    assert "| ramanujan_gap | sparse_wide | 12 | 1.00 |" in text
    assert "imdb" not in text  # no run has it
