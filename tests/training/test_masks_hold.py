"""Masks hold whatever becomes of the weights: in whatever order things are done."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsefx
from sparsefx.training.life import life_of
from tests.training.preset_starts import PRESETS, X, Y, base

QUICK = settings(
    max_examples=200, deadline=None, suppress_health_check=list(HealthCheck)
)
LONG = settings(QUICK, max_examples=2000)


def check(model: nn.Module) -> None:
    """Report, masks and what finalize gives agree, within the budget of the step."""
    report, masks = sparsefx.report(model), sparsefx.masks(model)
    life = life_of(model, "report")
    progress = life.plan.policy.schedule().at(life.step).budget_progress
    rows = zip(life.plan.targets, life.plan.allowed(progress), strict=True)
    for target, allowed in rows:
        assert report.budgets[target.cost].kept <= allowed * (1 + 1e-9)
    densities = {row.name: row.density for row in report.layers}
    for name, mask in masks.items():
        assert densities[name] == pytest.approx(float(mask.double().mean()))
    with torch.no_grad():
        out = model(X.to(next(model.parameters()).dtype))
    dense = sparsefx.finalize(copy.deepcopy(model))
    with torch.no_grad():
        same = dense(X.to(next(dense.parameters()).dtype))
    torch.testing.assert_close(out, same, rtol=1e-3, atol=1e-3)
    for name, weight in dense.named_parameters():
        if name in masks:
            assert not weight[~masks[name]].any(), name


class Run:
    """A model on its way, its optimizer and its average."""

    def __init__(self, preset: str, every: int, adam: bool) -> None:
        self.first = base(preset, every)
        self.model = copy.deepcopy(self.first)
        self.adam = adam
        self.ready()
        average = get_ema_multi_avg_fn(0.8)
        self.ema = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)

    def ready(self) -> None:
        made = torch.optim.AdamW if self.adam else torch.optim.SGD
        more = {} if self.adam else {"momentum": 0.9}
        self.optimizer = made(self.model.parameters(), 0.05, **more)

    def optimize(self) -> None:
        self.optimizer.zero_grad()
        dtype = next(self.model.parameters()).dtype
        F.cross_entropy(self.model(X.to(dtype)), Y).backward()
        self.optimizer.step()

    def step(self) -> None:
        info = sparsefx.step(self.model, self.optimizer)
        assert info.hard_cost <= info.budget * (1 + 1e-9)

    def both(self) -> None:
        self.optimize()
        self.step()

    def average(self) -> None:
        if next(self.model.parameters()).dtype == torch.float32:
            self.ema.update_parameters(self.model)

    def copied(self) -> None:
        self.model = copy.deepcopy(self.model)
        self.ready()

    def saved(self) -> None:
        other = copy.deepcopy(self.first)
        other.load_state_dict(self.model.state_dict(), assign=self.adam)
        self.model = other
        self.ready()

    def edited(self) -> None:
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.add_(torch.randn(weight.shape, dtype=weight.dtype) * 0.05)

    def cast(self) -> None:
        now = next(self.model.parameters()).dtype
        self.model.to(torch.float64 if now == torch.float32 else torch.float32)
        self.ready()


ACTIONS = ("optimize", "step", "both", "average", "copied", "saved", "edited", "cast")


def runs(
    preset: str, every: int, adam: bool, actions: list[str], checked: set[int]
) -> None:
    torch.manual_seed(len(actions))
    run = Run(preset, every, adam)
    for i, action in enumerate(actions):
        getattr(run, action)()
        if i in checked:
            check(run.model)
            check(run.ema.module)
    check(run.model)
    check(run.ema.module)


GIVEN = given(
    st.sampled_from(sorted(PRESETS)),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.lists(st.sampled_from(ACTIONS), min_size=2, max_size=9),
    st.sets(st.integers(0, 8), max_size=1),
)


@QUICK
@GIVEN
def test_whatever_is_done(
    preset: str, every: int, adam: bool, actions: list[str], checked: set[int]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs(preset, every, adam, actions, checked)


@pytest.mark.slow
@LONG
@GIVEN
def test_whatever_is_done_often(
    preset: str, every: int, adam: bool, actions: list[str], checked: set[int]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs(preset, every, adam, actions, checked)


def test_a_copy_is_a_snapshot_until_its_weights_move() -> None:
    sparse = copy.deepcopy(base("rigl", 1))
    run = torch.optim.SGD(sparse.parameters(), 0.1)
    before = copy.deepcopy(sparse)
    masks = sparsefx.masks(before)
    for _ in range(4):
        run.zero_grad()
        F.cross_entropy(sparse(X), Y).backward()
        run.step()
        sparsefx.step(sparse, run)
    now = sparsefx.masks(sparse)
    assert any(not torch.equal(now[n], masks[n]) for n in masks)
    assert all(torch.equal(m, masks[n]) for n, m in sparsefx.masks(before).items())
    with torch.no_grad():
        for mine, theirs in zip(before.parameters(), sparse.parameters(), strict=True):
            mine.lerp_(theirs, 0.5)
    assert all(torch.equal(m, now[n]) for n, m in sparsefx.masks(before).items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparsefx.step(before)  # from now on it goes its own way
    own = sparsefx.masks(before)
    for _ in range(3):
        F.cross_entropy(sparse(X), Y).backward()
        sparsefx.step(sparse, run)
    assert all(torch.equal(m, own[n]) for n, m in sparsefx.masks(before).items())


def test_state_dicts_hold_copies() -> None:
    """timm's averages write into what ``state_dict`` gives."""
    sparse = copy.deepcopy(base("cost_budget", 1))
    before = sparsefx.masks(sparse)
    for key, value in sparse.state_dict().items():
        if "_sparsefx" in key:
            value.zero_()
    assert all(torch.equal(m, before[n]) for n, m in sparsefx.masks(sparse).items())
    assert not any("_sparsefx" in name for name, _ in sparse.named_buffers())
