"""Settings that do not go together, or hardly do: refused, or told of by name."""

from typing import Any

import pytest

import sparsefx
from sparsefx import Learner
from sparsefx.errors import PolicyError
from sparsefx.learners import LEARNERS, learner_of
from sparsefx.policies.policy import Policy
from sparsefx.settings.fields import settings_of


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "gmp",
            {"update_every": 100},
            "leaves 1 updates in steps 0 to 120 of 240, which are all in wh",
        ),
        ("granet", {"update_every": 0.4}, "96 leaves 1 updates in steps 0 to 120 of"),
        (
            "rigl",
            {"update_every": 100},
            "100 leaves 1 updates in steps 0 to 180 of 240, which are all in",
        ),
        (
            "set",
            {"update_every": 70},
            "leaves 2 updates .* update_every: 18 or less",
        ),
        ("units", {"update_every": 500}, "500 leaves 0 updates"),
        ("cost_budget", {"update_every": 50}, "50 leaves 2 updates in steps 0 to 120"),
        (
            "gmp",
            {"begin_step": 0.4, "update_every": 100},
            "100 leaves 1 updates in steps 96 to 120",
        ),
    ],
)
def test_schedules_of_hardly_any_update_are_told(
    name: str, settings: dict[str, Any], message: str
) -> None:
    begin = settings.get("begin_step", 0.0)
    if begin:  # a ramp of 24 steps is a trial
        settings = {**settings, "end_step": 0.6}
        message = message.replace("120", "144")
    with pytest.warns(UserWarning, match=message):
        sparsefx.load_policy(name, total_steps=240, **settings)


def test_a_setting_of_other_learners_has_no_effect() -> None:
    values = {"drop_ramp": "linear", "beta_ramp": "cosine", "optimizer_state": "keep"}
    others = {"dropped": "hold", "inclusive": True, "seed": 1}
    others |= {"regrow_dropped": True, "soft_when_frozen": True}
    known = settings_of(Policy)
    for name in {n for one in LEARNERS.values() for n in one.reads} - {"unit_density"}:
        value = {**values, **others}.get(name, 0.25)
        assert value != known[name].default
        readers = {one.name for one in LEARNERS.values() if name in one.reads}
        for learner in LEARNERS.values():
            policy = {"learner": learner.name, name: value, "budget_ramp": "constant"}
            policy |= {"tokens": {"before": 0}} if learner.part == "tokens" else {}
            policy |= {"keep_units": False} if name == "inclusive" else {}
            if learner.name in readers:
                Policy(**policy)
            else:
                message = f"{name} .* the learner {learner.name}"
                with pytest.warns(UserWarning, match=message):
                    Policy(**policy)


def test_densities_need_a_policy_that_takes_them() -> None:
    with pytest.warns(UserWarning, match="no effect .* they are for layerwise"):
        Policy(densities={"*": 0.5})
    Policy(densities={"*": 0.5}, allocation="layerwise")
    Policy(densities={"*": 0.5}, allocation=lambda sites, budget, densities: {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learner": "tokens"}, r"needs to know where; set tokens: \{before: 0\}"),
        ({"unit_density": 0.5, "learner": "magnitude"}, "masks weights inside units"),
        ({"rewrite": "sparse_wide", "learner": "units_taylor"}, "learner of weights"),
        ({"rewrite": "sparse_wide", "tokens": {"before": 0}}, "use one"),
        ({"inclusive": True}, "inclusive draws one threshold"),
        (
            {"inclusive": True, "keep_units": False, "allocation": "uniform"},
            "inclusive draws one threshold",
        ),
        (
            {"tokens": {"before": 0}, "budget_of": "selected"},
            "not of selected weights; set budget_of: model or maskable",
        ),
        ({"learner": Learner(name="a", steady=True)}, "the learner a is sparse from"),
    ],
)
def test_contradictions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy(**settings)


def test_names_and_learners_are_the_same() -> None:
    for name, learner in LEARNERS.items():
        assert learner_of(name) is learner_of(learner) is learner
        ramp = "constant" if learner.steady else "cubic"
        tokens = {"before": 0} if learner.part == "tokens" else {}
        named = Policy(learner=name, budget_ramp=ramp, tokens=tokens, total_steps=40)
        given = Policy(learner=learner, budget_ramp=ramp, tokens=tokens, total_steps=40)
        assert named.schedule() == given.schedule()
