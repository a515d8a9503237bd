"""Settings of tokens: refused by name, read in every form."""

from typing import Any

import pytest
import yaml

import sparsefx
from sparsefx.errors import PolicyError
from sparsefx.settings.token_options import parse_tokens


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ({"befor": 1}, "did you mean 'before'"),
        ({"before": 1.5}, "fraction of the depth"),
        ({"before": True}, "fraction of the depth"),
        ({"keep": 0}, "number of tokens"),
        ({"before": [1, 2], "keep": [0.5, 0.5, 0.5]}, "each of the 2 places"),
        ({"min_keep": 0.9, "max_keep": 0.5}, "at most max_keep"),
        ({"tau": [1]}, "first and the last"),
        (3, "mapping"),
    ],
)
def test_unknown_options_are_refused(tokens: Any, text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        sparsefx.Policy(learner="tokens", budget_ramp="constant", tokens=tokens)


def test_options_are_read() -> None:
    found = parse_tokens({"before": [1, 0.5, "a.b"], "keep": [0.5, 3, 1.0]})
    assert found.before == (1, 0.5, "a.b")
    assert found.keep == (0.5, 3, 1.0)
    assert parse_tokens({}) is None
    policy = sparsefx.load_policy("svite_joint", tokens={"before": (0, 2)})
    again = sparsefx.load_policy(yaml.safe_load(policy.to_yaml()))
    assert again == policy
    with pytest.raises(PolicyError, match="learner tokens"):
        sparsefx.Policy(learner="tokens")
