"""Runs go as those of the authors' own code, which `authors.json` holds."""

import json
from pathlib import Path

import pytest
import torch

from tests.authors_runs import RUNS, told, trained_by_us

RECORDED = json.loads(
    Path(__file__).parents[1].joinpath("authors.json").read_text("utf-8")
)


SLOW = ("spartan, cosine",)  # another goes nearly the same way


def marked(name):
    return pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("name", [marked(name) for name in RUNS])
def test_a_run_goes_as_the_authors(name: str) -> None:
    moments = trained_by_us(RUNS[name])
    for wanted, moment in zip(RECORDED[name], moments, strict=True):
        found = told(*moment)
        assert (found["step"], found["counts"]) == (wanted["step"], wanted["counts"])
        assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-6)
        torch.testing.assert_close(
            torch.tensor(found["sums"], dtype=torch.float64),
            torch.tensor(wanted["sums"], dtype=torch.float64),
            rtol=0,
            atol=1e-6,
        )
