"""Masks hold whatever becomes of the weights: in whatever order things are done."""

import copy
import functools
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sparsefx
from sparsefx.training.life import life_of

TOTAL = 12
PRESETS: dict[str, dict[str, object]] = {
    "cost_budget": {},
    "spartan": {},
    "spartan_block": {"granularity": "block:4x4", "exclude": ("4",)},
    "nm_2_4": {},
    "erk": {},
    "uniform": {},
    "magnitude": {},
    "gmp": {},
    "topkast": {},
    "fixed": {},
    "set": {},
    "rigl": {},
    "granet": {},
    "granet_sparse": {},
    "units": {"budget": 0.6},
    "svite_units": {"budget": 0.6},
    "mixed": {"unit_density": 0.7, "budget": {"macs": 0.3}},
    "several": {"budget": {"macs": 0.4, "params": 0.4}},
}
NAMES = {"mixed": "spartan", "several": "cost_budget"}
QUICK = settings(
    max_examples=200, deadline=None, suppress_health_check=list(HealthCheck)
)
LONG = settings(QUICK, max_examples=2000)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)
    )


X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
Y = torch.arange(32) % 4


@functools.cache
def base(preset: str, every: int) -> nn.Module:
    given: dict[str, object] = {
        "total_steps": TOTAL,
        "update_every": every,
        **PRESETS[preset],
    }
    if "budget" not in given and not preset.startswith("nm"):
        given["budget"] = 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = NAMES.get(preset, preset)
        return sparsefx.transform(net(), name, example_inputs=(X,), **given)


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
    preset: str, every: int, adam: bool, actions: list[str], checks: list[bool]
) -> None:
    torch.manual_seed(len(actions))
    run = Run(preset, every, adam)
    for action, look in zip(actions, checks, strict=True):
        getattr(run, action)()
        if look:
            check(run.model)
            check(run.ema.module)
    check(run.model)
    check(run.ema.module)


GIVEN = given(
    st.sampled_from(sorted(PRESETS)),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.lists(st.sampled_from(ACTIONS), min_size=2, max_size=9).flatmap(
        lambda a: st.tuples(
            st.just(a), st.lists(st.booleans(), min_size=len(a), max_size=len(a))
        )
    ),
)


@QUICK
@GIVEN
def test_whatever_is_done(
    preset: str, every: int, adam: bool, plan: tuple[list[str], list[bool]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs(preset, every, adam, *plan)


@pytest.mark.slow
@LONG
@GIVEN
def test_whatever_is_done_often(
    preset: str, every: int, adam: bool, plan: tuple[list[str], list[bool]]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs(preset, every, adam, *plan)


@settings(max_examples=30, deadline=None)
@given(
    preset=st.sampled_from(["cost_budget", "spartan", "magnitude", "granet", "units"]),
    every=st.integers(1, 12),
    end=st.integers(0, 20),
    freeze=st.one_of(st.none(), st.integers(0, 20)),
    ramp=st.sampled_from(["cubic", "linear", "constant"]),
)
def test_every_forward_pass_is_within_the_budget_of_its_step(
    preset: str, every: int, end: int, freeze: int | None, ramp: str
) -> None:
    freeze = freeze if freeze is None else max(freeze, end)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = sparsefx.transform(
            net(),
            preset,
            example_inputs=(X,),
            budget={"macs": 0.5},
            total_steps=20,
            update_every=every,
            budget_ramp=ramp,
            end_step=end,
            freeze_step=freeze,
        )
        sgd = torch.optim.SGD(sparse.parameters(), 0.2, momentum=0.9)
        budget = sparsefx.report(sparse).totals["macs"].dense
        for _ in range(22):
            sgd.zero_grad()
            F.cross_entropy(sparse(X), Y).backward()
            sgd.step()
            assert cost(sparse) <= budget * (1 + 1e-9)
            info = sparsefx.step(sparse, sgd)
            budget = info.budget
            assert cost(sparse) <= info.hard_cost * (1 + 1e-9) <= budget * (1 + 1e-9)


def cost(sparse: nn.Module) -> float:
    """What the weights cost that a forward pass uses."""
    life = life_of(sparse, "report")
    if life.parts[-1].name == "units":
        return sparsefx.report(sparse).budgets["macs"].kept
    prices = {site.name: site.cost("macs") for site in life.plan.sites}
    used: dict[str, Tensor] = {f"{n}.weight": sparse[n].weight for n in (0, 2, 4)}
    return sum(prices[n] * int(w.count_nonzero()) for n, w in used.items())


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


@pytest.mark.parametrize("policy", ["cost_budget", "spartan", "gmp", "units"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_schedules_are_within_the_budget(policy: str, total: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = sparsefx.transform(
            net(), policy, example_inputs=(X,), total_steps=total, budget=0.5
        )
        for _ in range(total):
            F.cross_entropy(sparse(X), Y).backward()
            sparsefx.step(sparse)
    assert all(b.met for b in sparsefx.report(sparse).budgets.values())


def test_state_dicts_hold_copies() -> None:
    """timm's averages write into what ``state_dict`` gives."""
    sparse = copy.deepcopy(base("cost_budget", 1))
    before = sparsefx.masks(sparse)
    for key, value in sparse.state_dict().items():
        if "_sparsefx" in key:
            value.zero_()
    assert all(torch.equal(m, before[n]) for n, m in sparsefx.masks(sparse).items())
    assert not any("_sparsefx" in name for name, _ in sparse.named_buffers())


@pytest.mark.parametrize("adam", [False, True])
def test_zeros_that_are_there_stay(adam: bool) -> None:
    sparse = copy.deepcopy(base("cost_budget", 1))
    dense = sparsefx.finalize(sparse)
    zeros = {n: p == 0 for n, p in dense.named_parameters() if p.ndim > 1}
    kept = sum(int((~z).sum()) for z in zeros.values())
    again = sparsefx.transform(dense, "fixed", example_inputs=(X,), masks="nonzero")
    params = sparsefx.report(again).budgets["params"]
    assert (params.limit, params.kept, params.met) == (kept, kept, True)
    made = torch.optim.Adam if adam else torch.optim.SGD
    optimizer = made(again.parameters(), 0.05, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(again(X), Y).backward()
        optimizer.step()
        sparsefx.step(again, optimizer)
    with torch.no_grad():  # a merged adapter
        for weight in again.parameters():
            weight.add_(0.01)
    for name, weight in sparsefx.finalize(again).named_parameters():
        if name in zeros:
            assert not weight[zeros[name]].any()
            assert weight[~zeros[name]].all()


def test_zeros_are_kept_by_the_fixed_policy_only() -> None:
    given = {"example_inputs": (X,), "masks": "nonzero"}
    with pytest.raises(sparsefx.MaskError, match="policy fixed"):
        sparsefx.transform(net(), "gmp", **given)
    with pytest.raises(sparsefx.PolicyError, match="leave budget out"):
        sparsefx.transform(net(), "fixed", budget=0.5, **given)
    with pytest.raises(sparsefx.PolicyError, match="masks is 'zero'"):
        sparsefx.transform(net(), "fixed", example_inputs=(X,), masks="zero")
