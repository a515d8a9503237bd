"""Policies: presets, YAML and back, overrides, and the text of every refusal."""

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsefx.policies
from sparsefx.errors import PolicyError
from sparsefx.policies.load_policy import load_policy
from sparsefx.policies.policy import Policy
from sparsefx.policies.presets import parse
from sparsefx.settings.schedule import RAMP_SHAPES

FOLDER = Path(__file__).resolve().parents[2] / "policies"
PRESETS = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))

words = st.text("abcXYZ019_.*é: #'\"-", min_size=1, max_size=8)
fractions = st.floats(0, 1)
positives = st.floats(1e-6, 1e6)
densities = st.tuples(fractions, fractions).map(sorted)
layer_settings = st.dictionaries(
    st.sampled_from(["min_density", "max_density", "density"]), fractions, min_size=1
)


@st.composite
def policies(draw):
    low, high = draw(densities)
    begin, end, freeze = sorted(draw(st.tuples(fractions, fractions, fractions)))
    ramp, beta_ramp = draw(st.tuples(*[st.sampled_from(RAMP_SHAPES)] * 2))
    budgets = positives | st.sampled_from(["25%", "1.2 GMACs"])
    return Policy(
        name=draw(words),
        allocation=draw(st.sampled_from(["cost_budget", "uniform", "erk"])),
        cost=draw(st.sampled_from(["macs", "params", "0.7*macs + 0.3*params"])),
        budget=draw(budgets | st.dictionaries(words, budgets, min_size=1, max_size=2)),
        initial_budget=1 if ramp == "constant" else draw(st.floats(0.01, 1)),
        budget_ramp=ramp,
        begin_step=begin,
        end_step=end,
        beta=draw(positives),
        beta_initial=1 if beta_ramp == "constant" else draw(positives),
        beta_ramp=beta_ramp,
        freeze_step=draw(st.sampled_from([None, freeze])),
        update_every=draw(st.integers(1, 10**6)),
        normalize=draw(st.sampled_from(["layer", "global", "none"])),
        include=tuple(draw(st.lists(words, max_size=2))),
        exclude=tuple(draw(st.lists(words, max_size=2))),
        layers=draw(st.dictionaries(words, layer_settings, max_size=2)),
        min_density=low,
        max_density=high,
        total_steps=draw(st.none() | st.integers(1, 10**6)),
    )


@given(policies())
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:update_every")
def test_yaml_round_trip(tmp_path_factory: pytest.TempPathFactory, policy: Any) -> None:
    path = tmp_path_factory.mktemp("policy") / "mine.yaml"
    path.write_text(policy.to_yaml(), encoding="utf-8")
    assert load_policy(path) == policy
    assert load_policy(str(path)) == policy


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_and_round_trip(name: str) -> None:
    policy = load_policy(name)
    assert policy.name == name
    assert load_policy(parse(policy.to_yaml(), "text")) == policy


def test_the_package_of_policies_is_the_function_that_lists_them() -> None:
    assert sparsefx.policies() == PRESETS
    assert sparsefx.policies.preset_names() == PRESETS


def test_spartan_is_the_paper() -> None:
    policy = load_policy("spartan")
    assert (policy.allocation, policy.cost) == ("cost_budget", "params")
    assert (policy.beta_initial, policy.beta) == (1.0, 20.0)
    assert (policy.end_step, policy.freeze_step) == (0.2, 0.8)
    assert policy.normalize == "global"


def test_sources_and_overrides() -> None:
    assert load_policy({"beta": 3}).beta == 3.0
    assert load_policy(Policy(beta=3), budget="25%") == Policy(beta=3, budget="25%")
    assert load_policy("erk", exclude="head").exclude == ("head",)
    assert load_policy({"layers": {"a": {"granularity": "unstructured"}}}).layers

    def mine(sites, budget):
        return dict.fromkeys((site.name for site in sites), 1.0)

    policy = load_policy(mine, beta=3)
    assert (policy.name, policy.allocation, policy.beta) == ("mine", mine, 3.0)


def test_a_policy_is_a_value() -> None:
    source = {"a": {"density": 0.5}}
    policy = Policy(layers=source, budget={"macs": 0.5})
    source["a"]["density"] = 0.1
    assert policy.layers == {"a": {"density": 0.5}}
    assert hash(policy) == hash(Policy(layers=policy.layers, budget={"macs": 0.5}))
    assert copy.deepcopy(policy) == policy
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "empty.yml"
    path.write_text("# nothing\n")
    assert load_policy(path) == Policy()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta": "hot"}, "beta is 'hot'; give a number above 0"),
        (
            {"beta": "1e1"},
            "beta is '1e1'; give a number above 0 (not as text; YAML reads a number "
            "only with its dot, 1.0e-3)",
        ),
        ({"beta": 0}, "beta is 0; give a number above 0"),
        ({"beta": True}, "beta is True; give a number above 0"),
        ({"beta": float("nan")}, "beta is nan; give a number above 0"),
        ({"beta_initial": -1}, "beta_initial is -1; give a number above 0"),
        ({"initial_budget": 1.5}, "initial_budget is 1.5; give a number in (0, 1]"),
        ({"min_density": 1.5}, "min_density is 1.5; give a kept fraction in [0, 1]"),
        ({"max_density": "x"}, "max_density is 'x'; give a kept fraction in [0, 1]"),
        (
            {"min_density": 0.5, "max_density": 0.25},
            "min_density 0.5 is above max_density 0.25; lower min_density or raise "
            "max_density",
        ),
        (
            {"update_every": 0},
            "update_every is 0; give a number of steps (int of at least 1) or a share "
            "of total_steps (float in (0, 1))",
        ),
        ({"update_every": 1.0}, "update_every is 1.0; give a number of steps"),
        ({"update_every": True}, "update_every is True; give a number of steps"),
        ({"update_every": 2**63}, f"update_every is {2**63}; give a number of steps"),
        ({"total_steps": 1.5}, "total_steps is 1.5; give a whole number of at least 1"),
        (
            {"end_step": 1.5},
            "end_step is 1.5; give a step (int of at least 0) or a fraction of "
            "total_steps (float in [0, 1])",
        ),
        ({"begin_step": -1}, "begin_step is -1; give a step (int of at least 0)"),
        ({"freeze_step": "late"}, "freeze_step is 'late'; give a step"),
        (
            {"end_step": 500, "total_steps": 100},
            "end_step 500 lies beyond total_steps 100; lower end_step or raise "
            "total_steps",
        ),
        (
            {"begin_step": 0.5, "end_step": 0.25, "total_steps": 100},
            "a ramp cannot begin at step 50 and end at step 25",
        ),
        ({"name": ""}, "name is ''; give a string that is not empty"),
        ({"cost": 3}, "cost is 3; give a string that is not empty"),
        (
            {"allocation": "erkk"},
            "allocation 'erkk' is not known; did you mean 'erk'? known: cost_budget, "
            "uniform, erk",
        ),
        (
            {"allocation": 3},
            "allocation is 3; give one of cost_budget, uniform, erk",
        ),
        (
            {"normalize": "layers"},
            "normalize 'layers' is not known; did you mean 'layer'? known: layer, "
            "global, none",
        ),
        (
            {"learner": "rig"},
            "learner 'rig' is not known; did you mean 'rigl'? known: soft",
        ),
        (
            {"learner": "rigl"},
            "the learner rigl is sparse from the start, so a budget_",
        ),
        ({"dropped": "no"}, "dropped 'no' is not known; known: zero, hold"),
        ({"seed": -1}, "seed is -1; give a whole number of at least 0"),
        ({"budget_ramp": "cubik"}, "did you mean 'cubic'?"),
        ({"beta_ramp": "x"}, "beta_ramp 'x' is not known; known: constant, linear"),
        (
            {"granularity": "4:2"},
            "granularity '4:2' keeps 4 of every 2 weights",
        ),
        ({"budget": None}, "budget is None; give a fraction (0.1), a string"),
        ({"budget": {}}, "budget is {}; give a fraction (0.1), a string"),
        (
            {"budget": {"macs": [1]}},
            "budget['macs'] is [1]; give a number or a string such as '25%'",
        ),
        ({"budget": {1: 0.1}}, "the cost name in budget is 1; give a string"),
        ({"include": 3}, "include is 3; give a list of patterns of module names"),
        ({"exclude": [3]}, "a pattern in exclude is 3; give a string"),
        ({"layers": ["a"]}, "layers is ['a']; give a mapping from patterns"),
        (
            {"layers": {"a": 0.5}},
            "layers['a'] is 0.5; give a mapping with the keys min_density, "
            "max_density, density, granularity, round_to",
        ),
        (
            {"layers": {"a": {"min_densty": 0.5}}},
            "key of layers['a'] 'min_densty' is not known; did you mean 'min_density'?",
        ),
        (
            {"layers": {"a": {"density": 2}}},
            "layers['a']['density'] is 2; give a kept fraction in [0, 1]",
        ),
        (
            {"bugdet": 0.1},
            "policy field 'bugdet' is not known; did you mean 'budget'? known: name, "
            "allocation,",
        ),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)):
        load_policy("cost_budget", **fields)


def test_misspelt_preset() -> None:
    message = (
        "policy 'cost_budgte' is not known; did you mean 'cost_budget'? known: "
        f"{', '.join(PRESETS)}"
    )
    with pytest.raises(PolicyError, match=re.escape(message)):
        load_policy("cost_budgte")


def test_a_source_of_the_wrong_type() -> None:
    with pytest.raises(PolicyError, match="policy is 3; give a preset name, the path"):
        load_policy(3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("beta: 1.0\nbeta: 2.0", "'beta' is given twice in the same mapping (line 2)"),
        (
            "layers:\n  a: {density: 0.1}\n  a: {density: 0.2}",
            "'a' is given twice in the same mapping (line 3); keep one",
        ),
        ("- 1", "holds [1]; write one 'field: value' a line"),
        ("a: [", "is not valid YAML"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("betta: 1.0", "policy field 'betta' is not known; did you mean 'beta'?"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=re.escape(message)):
        load_policy(path)


def test_missing_file() -> None:
    with pytest.raises(PolicyError, match=r"policy file 'no\.yaml' cannot be read"):
        load_policy("no.yaml")


def test_a_function_cannot_be_yaml() -> None:
    message = (
        "the allocation of policy 'len' is a Python object, which YAML cannot hold; "
        "allowed: cost_budget, uniform, erk"
    )
    with pytest.raises(PolicyError, match=message):
        load_policy(len).to_yaml()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": {"head": {}}}, r"layers\['head'\] is empty; set min_density"),
        (
            {"budget_ramp": "constant", "initial_budget": 0.5},
            "initial_budget 0.5 has no effect with budget_ramp 'constant'",
        ),
        (
            {"beta_ramp": "constant", "beta_initial": 2},
            "beta_initial 2 has no effect with beta_ramp 'constant'",
        ),
    ],
)
def test_settings_without_effect_warn(fields: dict[str, Any], message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        Policy(**fields)
