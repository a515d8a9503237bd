"""The schedule: golden values, exact ends, monotone ramps, when masks update."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsefx.errors import PolicyError
from sparsefx.policies.policy import Policy
from sparsefx.settings.schedule import RAMP_SHAPES, Ramp, Schedule, resolve


def spartan(shape):
    return Policy(
        total_steps=1000,
        budget=0.1,
        budget_ramp=shape,
        end_step=0.2,
        beta=20,
        beta_initial=1,
        beta_ramp=shape,
        freeze_step=0.8,
    ).schedule()


def budget_at(phase, initial=1.0, target=0.1):
    return initial + (target - initial) * phase.budget_progress


@pytest.mark.parametrize(
    ("shape", "step", "budget", "beta"),
    [
        ("linear", 1, 0.9955, 1.02375),
        ("linear", 50, 0.775, 2.1875),
        ("linear", 200, 0.1, 5.75),
        ("linear", 400, 0.1, 10.5),
        ("linear", 800, 0.1, 20.0),
        ("linear", 1000, 0.1, 20.0),
        ("cosine", 50, 0.8681980515, 1.1825398362),
        # By hand, 1 + 19 (1 - cos(pi / 4)) / 2; the dossier prints ...5786.
        ("cosine", 200, 0.1, 1 + 19 * (1 - math.sqrt(0.5)) / 2),
    ],
)
def test_golden_schedule_of_spartan(
    shape: str, step: int, budget: float, beta: float
) -> None:
    phase = spartan(shape).at(step)
    assert budget_at(phase) == pytest.approx(budget, abs=1e-10)
    assert phase.beta == pytest.approx(beta, abs=1e-10)


def test_cubic_ramp_is_the_formula_of_gradual_pruning() -> None:
    ramp = Ramp("cubic", 1.0, 0.1, 10, 110)
    for step in (10, 35, 60, 109):
        rest = 1 - (step - 10) / 100
        assert ramp.at(step) == pytest.approx(0.1 + 0.9 * rest**3)


def test_masks_update_at_the_freeze_and_never_after() -> None:
    schedule = spartan("linear")
    before, at, after = (schedule.at(step) for step in (799, 800, 801))
    assert (before.frozen, before.update) == (False, True)
    assert (at.frozen, at.update) == (True, True)
    assert (after.frozen, after.update) == (True, False)


def test_rare_updates_still_meet_every_end() -> None:
    with pytest.warns(UserWarning, match="update_every 300 leaves 1 updates"):
        schedule = Policy(total_steps=1000, update_every=300).schedule()
    updates = [step for step in range(1001) if schedule.at(step).update]
    assert updates == [0, 300, 500, 600, 800]


@pytest.mark.parametrize(
    ("every", "total", "steps"),
    [
        (7, 1000, 7),
        (0.01, 1000, 10),
        (0.145, 200, 29),
        (0.01, 40, 1),
        (0.01, None, 100),
    ],
)
def test_intervals_are_steps_or_shares(
    every: float, total: int | None, steps: int
) -> None:
    policy = Policy(update_every=every, total_steps=total, budget_ramp="constant")
    assert policy.schedule().update_every == policy.interval() == steps


def test_without_total_steps_the_target_holds_at_once() -> None:
    phase = Policy(beta=7).schedule().at(0)
    assert (phase.budget_progress, phase.beta) == (1.0, 7.0)
    assert (phase.frozen, phase.update) == (False, True)
    assert not Policy().schedule().at(10**9).frozen


@pytest.mark.parametrize("freeze", [None, 1.0])
def test_no_freeze(freeze: float | None) -> None:
    schedule = Policy(total_steps=100, freeze_step=freeze).schedule()
    assert schedule.freeze is None
    assert schedule.at(99).beta < 10.0
    assert schedule.at(100).beta == 10.0
    assert not schedule.at(1000).frozen


def test_int_one_is_a_step_and_float_one_a_fraction() -> None:
    assert resolve(1, 100) == 1
    assert resolve(1.0, 100) == 100


@given(st.integers(0, 1000))
def test_hundredths_of_total_steps_are_whole_steps(hundredths: int) -> None:
    assert resolve(hundredths / 1000, 1000) == hundredths


@given(
    st.sampled_from(RAMP_SHAPES),
    st.floats(-100, 100),
    st.floats(-100, 100),
    st.integers(0, 50),
    st.integers(0, 50),
)
def test_ramps_are_monotone_and_end_exactly(
    shape: str, initial: float, final: float, begin: int, length: int
) -> None:
    ramp = Ramp(shape, initial, final, begin, begin + length)
    values = [ramp.at(step) for step in range(begin + length + 3)]
    assert values[begin + length :] == [final] * 3
    if length and shape != "constant":
        assert values[: begin + 1] == [initial] * (begin + 1)
    signed = values if final >= initial else [-value for value in values]
    slack = 1e-12 * (abs(initial) + abs(final))
    assert all(b >= a - slack for a, b in itertools.pairwise(signed))


def test_ramp_shape_is_checked() -> None:
    message = "ramp 'liner' is not known; allowed: constant, linear, cosine, cubic"
    with pytest.raises(PolicyError, match=message):
        Ramp("liner", 0.0, 1.0, 0, 1)


def test_ramp_out_of_order() -> None:
    message = (
        "a ramp cannot begin at step 5 and end at step 4; lower begin_step or "
        "raise end_step"
    )
    with pytest.raises(PolicyError, match=message):
        Ramp("linear", 0.0, 1.0, 5, 4)


def test_freeze_before_the_budget_is_reached() -> None:
    message = r"freeze_step \(step 100\) comes before end_step \(step 200\)"
    with pytest.raises(PolicyError, match=message):
        Policy(total_steps=1000, end_step=200, freeze_step=100)


def test_update_every_is_checked() -> None:
    ramp = Ramp("constant", 0.0, 1.0, 0, 0)
    with pytest.raises(PolicyError, match="update_every is 0; it must be at least 1"):
        Schedule(ramp, ramp, update_every=0)
