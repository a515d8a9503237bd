"""Whatever is given as a setting, what comes out is a `SparsefxError`, or nothing."""

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx
from sparsefx.errors import PolicyError, SparsefxError
from sparsefx.policies.policy import Policy
from sparsefx.policies.presets import parse
from sparsefx.settings.budget import parse_budget
from sparsefx.settings.cost_expression import parse_expression
from sparsefx.settings.granularity import Granularity
from sparsefx.settings.patterns import most_specific, select
from sparsefx.settings.token_options import parse_tokens
from sparsefx.training.build_rewritten import rewrite_of
from tests.settings import odd_values as odd

CASES = [50, pytest.param(500, marks=pytest.mark.slow)]
NAMES = [("0.weight", "0"), ("2.weight", "2"), ("2.bias", "2")]
REWRITES = ["sparse_wide", "sparse_parallel", "sparse_factorized", "sparse_doped"]


def tried(work: Callable[[], Any]) -> None:
    """Passes if the work does, or is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(SparsefxError):
            work()


def for_all(cases: int, strategy: st.SearchStrategy[Any]) -> Any:
    """Tries so many values of a strategy."""

    def run(check: Callable[[Any], Any]) -> None:
        suppressed = [HealthCheck.too_slow, HealthCheck.data_too_large]
        chosen = settings(
            max_examples=cases, deadline=None, suppress_health_check=suppressed
        )
        chosen(given(strategy)(lambda value: tried(lambda: check(value))))()

    return run


@pytest.mark.parametrize("cases", CASES)
def test_texts_of_policies(cases: int, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"

    @for_all(cases, odd.YAMLS | st.binary(max_size=12))
    def check(text: str | bytes) -> None:
        if isinstance(text, bytes):
            path.write_bytes(text)
            sparsefx.load_policy(path)
        else:
            sparsefx.load_policy(parse(text, "text"))


@pytest.mark.parametrize("cases", CASES)
def test_sources_of_policies(cases: int) -> None:
    for_all(cases, odd.ANY | odd.TEXTS.map("{}.yaml".format))(sparsefx.load_policy)


@pytest.mark.parametrize("cases", CASES)
def test_fields_of_policies(cases: int) -> None:
    @for_all(cases, odd.FIELDS)
    def check(values: dict[Any, Any]) -> None:
        policy = sparsefx.load_policy(values)
        policy.schedule()
        assert isinstance(policy, Policy)


@pytest.mark.parametrize("cases", CASES)
def test_budgets(cases: int) -> None:
    budgets = odd.ANY | st.dictionaries(odd.KEYS, odd.ANY, max_size=2)

    @for_all(cases, st.tuples(budgets, odd.TEXTS, st.sampled_from([(), ("energy",)])))
    def check(given: Any) -> None:
        for one in parse_budget(*given):
            assert one.limit(100.0) > 0


@pytest.mark.parametrize("cases", CASES)
def test_patterns(cases: int) -> None:
    some = st.lists(odd.TEXTS | st.text("*?[]!re:.(){}|\\019", max_size=9), max_size=2)
    layers = st.dictionaries(odd.TEXTS, st.just({"density": 0.5}), max_size=2)

    @for_all(cases, st.tuples(some, some, layers))
    def check(given: Any) -> None:
        select(NAMES, *given)
        most_specific("densities", NAMES, dict.fromkeys(given[0], 1.0))


@pytest.mark.parametrize("cases", CASES)
def test_expressions(cases: int) -> None:
    @for_all(cases, odd.EXPRESSIONS | odd.TEXTS)
    def check(text: str) -> None:
        found = parse_expression(text, ("macs", "params"))
        assert found.keys() <= {"macs", "params"}


@pytest.mark.parametrize("cases", CASES)
def test_granularities(cases: int) -> None:
    texts = odd.TEXTS | st.text("block:x0123456789pad ", max_size=14)
    for_all(cases, texts)(Granularity.parse)


@pytest.mark.parametrize("cases", CASES)
def test_tokens(cases: int) -> None:
    for_all(cases, odd.TOKENS | odd.ANY)(parse_tokens)


@pytest.mark.parametrize("cases", CASES)
def test_options_of_rewrites(cases: int) -> None:
    names = ["activation", "init", "iso", "select", "branches", "rank", "heads", "seed"]
    keys = st.sampled_from(names) | odd.TEXTS
    options = st.dictionaries(keys, odd.ANY, max_size=3)

    @for_all(cases, st.tuples(st.sampled_from(REWRITES), options))
    def check(given: Any) -> None:
        rewrite, options = given
        rewrite_of(sparsefx.load_policy(rewrite, rewrite_options=options))


@pytest.mark.parametrize("cases", CASES)
def test_policies_that_may_not_fit_the_model(cases: int) -> None:
    x = (torch.ones(2, 8),)

    @for_all(cases, odd.POLICIES)
    def check(values: dict[str, Any]) -> None:
        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        sparse = sparsefx.transform(net, values, example_inputs=x)
        info = sparsefx.step(sparse)
        assert values.get("inclusive") or info.hard_cost <= info.budget * (1 + 1e-9)


@pytest.mark.parametrize("text", ["macs\0", "\0", "1\ud800", "macs +", "(" * 200])
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(PolicyError, match="a mistake in its syntax"):
        parse_expression(text, ("macs",))
