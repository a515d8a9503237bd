"""What benchmarks have measured: a line of JSON a run, and the last one counts."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from shared.result_lines import RESULTS, append, read


def test_the_last_run_of_equal_keys_counts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.jsonl"
    assert read(path, "name", "seed") == {}
    runs = [("b", 0, 1.5), ("a", 1, 2.5), ("b", 0, None), ("a", 0, 0.1 + 0.2)]
    for name, seed, score in runs:
        append(path, {"name": name, "seed": seed, "score": score})
    found = read(path, "name", "seed")
    assert list(found) == [("a", 0), ("a", 1), ("b", 0)]
    assert [run["score"] for run in found.values()] == [0.1 + 0.2, 2.5, None]


def test_lines_written_side_by_side_stay_whole(tmp_path: Path) -> None:
    path, long = tmp_path / "runs.jsonl", list(range(5000))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: append(path, {"run": i, "losses": long}), range(64)))
    found = read(path, "run")
    assert list(found) == [(i,) for i in range(64)]
    assert all(run["losses"] == long for run in found.values())


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("accuracy", ("scale", "task", "learner", "density", "seed")),
        ("inference", ("model", "zeros", "batch", "threads")),
        ("iso_flop", ("network", "member", "iso")),
        ("plasticity", ("seed", "moment", "rate", "growth", "lr")),
        ("sparse_ift", ("member", "density", "learner", "seed")),
        ("svite", ("variant", "seed")),
        ("variants", ("question", "variant", "task", "seed")),
        ("units_zoo", ("model", "dtype")),
    ],
)
def test_kept_results_have_each_run_once(name: str, keys: tuple[str, ...]) -> None:
    path = RESULTS / f"{name}.jsonl"
    assert len(read(path, *keys)) == len(path.read_text("utf-8").splitlines()) > 0
