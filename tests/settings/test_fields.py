"""Fields of settings: one text for checks, help, the page of fields, the schema."""

import json
import pydoc
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefx
from sparsefx.cli import main
from sparsefx.errors import PolicyError
from sparsefx.policies.policy import Policy, policy_schema
from sparsefx.settings.fields import settings_of
from sparsefx.settings.token_options import TokenOptions
from sparsefx.training.build_rewritten import MEMBERS
from tests.settings.json_schema import misfit

FOLDER = Path(__file__).resolve().parents[2] / "policies"
SCHEMA = json.loads(json.dumps(policy_schema()))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.floats(-1, 2)
    | st.sampled_from(["a", "", "zero", "linear", "2:4", "rigl", "selected", "25%"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["macs", "density", "before", "*", "energy"]),
            inner,
            max_size=2,
        )
    ),
    max_leaves=4,
)


@pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem
)
def test_presets_fit_the_schema(path: Path) -> None:
    assert not misfit(yaml.safe_load(path.read_text("utf-8")), SCHEMA)
    whole = sparsefx.load_policy(path.stem).to_yaml()
    assert not misfit(yaml.safe_load(whole), SCHEMA)


def test_the_schema_refuses_what_it_should() -> None:
    assert misfit({"betta": 1.0}, SCHEMA) == ".betta: not known"
    assert misfit({"beta": 0}, SCHEMA) == ".beta: exclusiveMinimum 0"
    assert misfit({"layers": {"*": {"density": 2}}}, SCHEMA)
    assert misfit({"tokens": {"beffore": 0}}, SCHEMA)
    assert not misfit({"freeze_step": None, "include": "a"}, SCHEMA)


@given(st.sampled_from(sorted(settings_of(Policy))), VALUES)
@settings(max_examples=300, deadline=None)
def test_what_a_rule_takes_fits_its_schema(name: str, value: Any) -> None:
    """Nothing that the package takes is marked as wrong in an editor."""
    try:
        kept = settings_of(Policy)[name].rule.read(name, value)
    except PolicyError:
        return
    assert not misfit(value, SCHEMA["properties"][name])
    again = json.loads(json.dumps(kept))
    assert settings_of(Policy)[name].rule.read(name, again) == kept


@pytest.mark.parametrize("owner", [Policy, TokenOptions])
def test_every_field_says_what_it_means(owner: type) -> None:
    found = settings_of(owner)
    assert list(found) == [f.name for f in fields(owner)]
    for setting in found.values():
        assert setting.meaning.endswith((".", ".`"))
        kept = setting.rule.read(setting.name, setting.default)
        assert kept == setting.default


def test_help_shows_every_field() -> None:
    text = pydoc.plain(pydoc.render_doc(Policy))
    for name, setting in settings_of(Policy).items():
        assert f"{name}: {setting.meaning.splitlines()[0]}" in text


def test_the_command_prints_page_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies", "--fields"]) == 0
    page = capsys.readouterr().out
    assert all(name in page for name in settings_of(Policy))
    assert "Final inverse temperature of the soft masks, above 0." in page
    assert main(["policies", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == SCHEMA


def test_words_of_tables_are_those_of_the_schema() -> None:
    assert SCHEMA["properties"]["rewrite"]["enum"] == ["none", *MEMBERS]
