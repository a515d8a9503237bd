"""What training does is what it did when `trajectories.json` was recorded.

Losses and costs of float64 runs agree to 1e-9, counts of masks exactly. A failure says
that training has changed: first find out where, bit by bit, with

    python benchmarks/compare_trajectories.py HEAD~1 HEAD

Record anew only where the change is meant: a fix, or a better algorithm, whose commit
says which cases move and why. Never for a refactoring, and never to make a test pass
that nobody has understood:

    PYTHONPATH=. python tests/trajectories.py tests/trajectories.json --compact
"""

import json
from pathlib import Path

import pytest
import torch

from tests.trajectories import SERIES, compact, record, unrolled
from tests.trajectory_cases import cases

RECORDED = json.loads(Path(__file__).with_name("trajectories.json").read_text("utf-8"))
CASES = {case.name: case for case in cases()}
CLOSE = {"rel": 1e-9, "abs": 1e-9}
# Another case goes nearly the same way; these take long to transform.
SLOW = {
    f"vit: {name}"
    for name in (
        *("sparse_doped", "sparse_factorized", "sparse_parallel", "sparse_wide"),
        *("fixed", "gmp", "granet_sparse", "layerwise", "set", "svite", "uniform"),
        *("er", "erk", "magnitude", "nm_2_4", "rigl", "topkast", "sensitivity, rigl"),
        *("function", "params", "tokens deeper", "units of params"),
    )
}


def marked(name):
    return pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("name", [marked(name) for name in RECORDED])
def test_training_goes_as_recorded(name: str) -> None:
    wanted = RECORDED[name]
    found = compact(record(CASES[name]))
    assert found.keys() == wanted.keys()
    if "error" in wanted:
        assert found == wanted
        return
    for series in SERIES:
        values = unrolled(found["steps"][series])
        assert values == pytest.approx(unrolled(wanted["steps"][series]), **CLOSE), (
            f"{series} has changed"
        )
    assert found["kept"] == wanted["kept"]
    assert found["spent"] == pytest.approx(wanted["spent"], **CLOSE)
    assert found["totals"].keys() == wanted["totals"].keys()
    for cost, total in wanted["totals"].items():
        assert found["totals"][cost] == pytest.approx(total, **CLOSE)
    assert [found["loss"], found["squares"]] == pytest.approx(
        [wanted["loss"], wanted["squares"]], **CLOSE
    )


def test_recording_leaves_no_trace() -> None:
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    record(CASES["conv: rigl"])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
