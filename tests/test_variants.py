"""The benchmark of one change at a time: variants are allowed, rows are means."""

import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from training.variants import QUESTIONS, table

import sparsefx


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_variant_is_a_policy_that_is_allowed(question: str) -> None:
    for name, variant in QUESTIONS[question].items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            policy = sparsefx.load_policy(variant.learner, **variant.settings)
        plain = sparsefx.load_policy(variant.learner)
        same = policy == plain and policy.budget == plain.budget
        assert same == (not variant.settings), name


def test_rows_are_means_over_seeds_beside_the_quick_set() -> None:
    kept = {"params": 5, "dense_params": 100, "macs": 8, "dense_macs": 100}
    runs = [
        {"question": "allocations", "variant": "erk", "task": "vit", "test": x, **kept}
        for x in (70.0, 71.0, 75.0)
    ]
    other = {**runs[0], "question": "blocks"}
    quick = [
        {"learner": learner, "task": "vit", "test": 80.0, **kept}
        for learner in ("spartan", "gmp")
    ]
    text = table("allocations", [*runs, other], quick)
    assert "| *spartan* | vit | 80.00 (1) | 5.0% | 8.0% |" in text
    assert "| erk | vit | 72.00 ± 2.65 (3) | 5.0% | 8.0% |" in text
    assert "gmp" not in text  # it answers another question
