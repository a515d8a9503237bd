"""Groups of weights: cut out, valued, solved, masked and differentiated exactly."""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsefx
from sparsefx.dual import Layer, hard_mask, soft_mask, solve_hard, solve_soft
from sparsefx.errors import BudgetError, MaskError, PolicyError
from sparsefx.granularity import Granularity
from sparsefx.grouping import grouping
from sparsefx.limits import Limits
from sparsefx.multiples import multiples
from sparsefx.n_of_m import NOfM, soft_top
from tests.reference import bisect, sigmoid
from tests.scalars import site_scalars

ALL = ("block:2x4", "block:3x5:pad", "2:4", "1:4", "channel")
X = torch.linspace(-2, 2, 6 * 16).reshape(6, 16).sin()


def net(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 12, bias=bias), nn.Tanh(), nn.Linear(12, 8, bias=bias)
    )


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 4, 3), nn.Flatten()
    )


def sparse_of(granularity, model=None, inputs=(X,), **options):
    given_ = {"budget": 0.7, "beta": 3.0, **options}
    return sparsefx.transform(
        model or net(), example_inputs=inputs, granularity=granularity, **given_
    )


def labels(granularity, shape, transposed=False):
    """Group number of every weight, by plain loops over the definition."""
    kind, sizes = Granularity.parse(granularity).kind, Granularity.parse(granularity)
    found = np.zeros(shape, dtype=object)
    conv = len(shape) > 2
    for index in itertools.product(*map(range, shape)):
        rest = list(index)
        out = rest.pop(1 if transposed else 0)
        sides = [n for i, n in enumerate(shape) if i != (1 if transposed else 0)]
        column = int(np.ravel_multi_index(rest, sides))
        if kind == "channel":
            found[index] = (out,)
        elif kind == "kernel":
            found[index] = index[:2]
        elif kind == "block":
            found[index] = (out // sizes.sizes[0], column // sizes.sizes[1])
        else:
            at = rest[0] if conv else column
            found[index] = (out, *(rest[1:] if conv else ()), at // sizes.sizes[1])
    return found


def members(marks):
    found = {}
    for index in np.ndindex(marks.shape):
        found.setdefault(marks[index], []).append(index)
    return found


# -- what users write ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["unstructured", "channel", "kernel", "2:4", "block:16x16", "block:1x4:pad"]
)
def test_a_granularity_reads_as_it_is_written(text):
    assert str(Granularity.parse(text)) == text
    assert str(Granularity.parse(f" {text.upper()} ")) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head", 'allowed: unstructured, "block:HxW"'),
        ("4:2", "N must be at least 1 and below M"),
        ("4:4", "N must be at least 1 and below M"),
        ("0:4", "N must be at least 1 and below M"),
        ("2:1000", "M at most 64"),
        ("block:0x4", "blocks hold two weights or more"),
        ("block:1x1", "blocks hold two weights or more"),
        ("block:4", "allowed: unstructured"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(PolicyError, match=message):
        Granularity.parse(text)


@pytest.mark.parametrize(
    ("text", "shape", "op", "message"),
    [
        ("block:8x8", (12, 16), "linear", r"w \(linear, 12 x 16\).*its 12 rows.*:pad"),
        ("block:4x5", (12, 16), "linear", "its 16 columns are no multiple of 5"),
        ("2:4", (12, 18), "linear", "its 18 inputs are no multiple of 4"),
        ("2:4", (8, 3, 3, 3), "conv2d", "its 3 inputs are no multiple of 4"),
        ("kernel", (8, 8), "linear", "only convolutions have kernels"),
        ("kernel", (8, 8, 1, 1), "conv2d", "its kernels hold one weight each"),
        ("channel", (8, 8), "einsum", "which of its dimensions are outputs"),
    ],
)
def test_weights_that_cannot_be_cut_are_refused_by_name(text, shape, op, message):
    with pytest.raises(PolicyError, match=message):
        grouping(text, shape, op, "w")


def test_a_model_with_a_misfit_is_refused_or_left_dense_by_choice():
    with pytest.raises(PolicyError, match=r"0\.weight \(linear, 12 x 16\)"):
        sparse_of("block:8x8")
    with pytest.warns(UserWarning, match=r"1 weights stay dense: 0\.weight \(cannot"):
        sparse = sparse_of("block:8x4", fallback="dense")
    assert list(sparsefx.masks(sparse)) == ["2.weight"]
    row = sparsefx.report(sparse).to_dict()["coverage"][0]
    assert row["masked"] is None
    assert "its 12 rows are no multiple of 8" in row["reason"]


def test_layers_differ_by_pattern():
    sparse = sparse_of("block:2x4", layers={"2": {"granularity": "2:4"}})
    rows = sparsefx.report(sparse).to_dict()["layers"]
    assert [row["granularity"] for row in rows] == ["block:2x4", "2:4"]
    code = sparsefx.graphs(sparse)[""].code
    assert "'block:2x4', 'linear')" in code
    assert "'2:4', 'linear')" in code


def test_a_bound_below_what_n_of_m_keeps_is_refused():
    with pytest.raises(PolicyError, match=r"below the 0\.5 that 2:4 keeps"):
        sparse_of("2:4", max_density=0.3)


# -- groups --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shape", "op"),
    [
        ("block:2x4", (4, 8), "linear"),
        ("block:3x5:pad", (7, 11), "linear"),
        ("block:2x6", (4, 2, 3, 3), "conv2d"),
        ("block:2x4:pad", (3, 5, 3), "conv_transpose1d"),
        ("channel", (4, 3, 2, 2), "conv2d"),
        ("channel", (4, 3, 2, 2), "conv_transpose2d"),
        ("kernel", (4, 3, 2, 2), "conv2d"),
        ("kernel", (4, 3, 2, 2), "conv_transpose2d"),
        ("channel", (4, 6), "linear"),
    ],
)
def test_groups_are_those_of_the_definition(text, shape, op):
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    groups = grouping(text, shape, op)
    values = groups.values(weight).tolist()
    sets = members(labels(text, shape, op.startswith("conv_transpose")))
    a = weight.detach().abs().numpy()
    means = [sum(a[i] for i in of) / groups.size for of in sets.values()]
    assert sorted(values) == pytest.approx(sorted(means), abs=1e-12)
    kept = torch.arange(groups.count) % 3 == 0
    mask = groups.expand(weight, kept)
    assert mask.shape == weight.shape
    for of in sets.values():
        assert len({bool(mask[i]) for i in of}) == 1
    # the pull is the derivative of the values
    slopes = torch.randn(groups.count, dtype=torch.float64)
    moved = weight.detach() + 1e-6 * (direction := torch.randn_like(weight).detach())
    change = (groups.values(moved) - groups.values(weight)) / 1e-6
    pulled = (groups.pull(weight.detach(), slopes) * direction).sum()
    torch.testing.assert_close((change * slopes).sum(), pulled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "op"),
    [((4, 8), "linear"), ((3, 8, 2, 2), "conv2d"), ((8, 3, 2), "conv_transpose1d")],
)
@pytest.mark.parametrize("text", ["2:4", "1:2", "5:8"])
def test_n_of_m_keeps_n_of_every_m(text, shape, op):
    torch.manual_seed(1)
    weight = torch.randn(shape).round(decimals=1)  # with ties
    groups = grouping(text, shape, op)
    n, m = groups.kept, groups.of
    top = groups.top(weight)
    for of in members(labels(text, shape, op.startswith("conv_transpose"))).values():
        assert len(of) == m
        ranked = sorted(of, key=lambda i: (-abs(float(weight[i])), i))
        assert {i for i in of if top[i]} == set(ranked[:n])
    assert groups.base + groups.size == weight.numel()
    rest = weight.abs()[~top].mean()
    torch.testing.assert_close(groups.values(weight)[0], rest)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([(1, 2), (2, 4), (3, 8), (1, 64)]),
       st.sampled_from([1e-3, 1.0, 30.0, 1e4]))  # fmt: skip
def test_the_soft_top_meets_its_sum(seed, pair, slope):
    n, m = pair
    rng = np.random.default_rng(seed)
    a = np.abs(rng.normal(size=(5, m))).round(1)
    found = soft_top(torch.from_numpy(a), slope, n).numpy()
    assert found.sum(1) == pytest.approx(np.full(5, n), rel=1e-9)
    for row, mine in zip(a, found, strict=True):
        z = slope * row
        even = math.log(n / (m - n))
        mu = bisect(lambda mu, z=z: sigmoid(z + mu).sum(), n, even - z.max() - 1,
                    even - z.min() + 1)  # fmt: skip
        np.testing.assert_allclose(mine, sigmoid(z + mu), atol=1e-7)


def test_the_soft_top_is_differentiated_through_its_sum():
    torch.manual_seed(0)
    weight = torch.randn(4, 8, dtype=torch.float64)
    groups = grouping("2:4", (4, 8), "linear")
    assert isinstance(groups, NOfM)
    slope = torch.tensor(3.0, dtype=torch.float64)
    pushed, way = torch.randn_like(weight), torch.randn_like(weight)
    ahead, behind = (groups.soft(weight + e * way, slope) for e in (1e-6, -1e-6))
    found = groups.soft_pull(weight, groups.soft(weight, slope), slope, pushed)
    wanted = (pushed * (ahead - behind) / 2e-6).sum()
    torch.testing.assert_close((found * way).sum(), wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("granularity", ALL)
def test_plain_operations_give_the_same(granularity):
    """What vmap and export use equals the operators."""
    sparse = sparse_of(granularity)
    state = sparse.get_submodule("_sparsefx")
    parameters = {n: p.detach() for n, p in sparse.named_parameters()}

    def loss(values):
        return torch.func.functional_call(sparse, values, (X,)).square().mean()

    state.spread.zero_()  # no coupling: that is added outside autograd
    sparse(X).square().mean().backward()
    found = torch.func.grad(loss)(parameters)
    for name, p in sparse.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("granularity", ["block:3x5:pad", "2:4"])
def test_the_operators_keep_their_contracts(granularity):
    from sparsefx.grouped import _forward

    weight = torch.randn(6, 8, requires_grad=True)
    rule = site_scalars(0.1, 2.0, 0.5, 0.4, 1)
    rule.mu.requires_grad_()
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        _forward, (weight, rule, granularity, "linear"), test_utils=tests
    )


# -- the paper's blocks (golden numbers) ---------------------------------------------


def test_blocks_have_the_golden_masks():
    weight = torch.tensor(
        [
            [0.1, -0.2, 0.3, 0.4],
            [0.5, -0.6, 0.7, 0.8],
            [0.9, 0.05, -0.15, 0.25],
            [0.35, -0.45, 0.55, 0.65],
        ],
        dtype=torch.float64,
    )
    values = grouping("block:2x2", (4, 4), "linear").values(weight)
    layer = Layer(values, price=4.0, worth=4.0, lower=0, upper=4)
    masks = solve_soft([layer], 8.0, 5.0, 0.4, rtol=1e-12)
    assert masks.mu == pytest.approx(-2.169546396050746, abs=1e-9)
    soft = soft_mask(values, masks.slopes[0], masks.centers[0], masks.offsets[0])
    wanted = [0.39662529867, 0.641171773917, 0.504488280428, 0.457714646984]
    np.testing.assert_allclose(soft, wanted, atol=1e-9)
    hard = solve_hard([layer], 8.0)
    kept = hard_mask(values, hard.thresholds[0], hard.lasts[0])
    assert kept.tolist() == [False, True, True, False]


def test_beta_grows_with_the_blocks():
    """Masks of means are as sharp as masks of weights."""
    wide = nn.Linear(256, 256, bias=False)
    spread = {}
    for granularity in ("unstructured", "block:4x4", "block:16x16"):
        sparse = sparse_of(
            granularity, wide, (torch.randn(2, 256),), budget=0.3, beta=10.0
        )
        spread[granularity] = sparsefx.step(sparse).kept_mask_mean
    assert min(spread.values()) > 0.75 * max(spread.values())


# -- whole models --------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ALL)
@pytest.mark.parametrize("policy", ["cost_budget", "uniform", "erk"])
def test_masks_have_their_structure_and_the_budget_holds(granularity, policy):
    sparse = sparse_of(granularity, policy=policy)
    info = sparsefx.step(sparse)
    assert info.hard_cost <= info.budget
    for site in sparsefx.sites(sparse):
        mask = sparsefx.masks(sparse)[site.name]
        kinds = [
            {bool(mask[i]) for i in of}
            for of in members(labels(granularity, site.shape)).values()
        ]
        if site.granularity.kind != "n_of_m":
            assert all(len(kind) == 1 for kind in kinds)
        elif not mask.all():
            n, _ = site.granularity.sizes
            runs = members(labels(granularity, site.shape)).values()
            assert {sum(bool(mask[i]) for i in of) for of in runs} == {n}
    if policy == "cost_budget":
        assert info.soft_cost == pytest.approx(info.budget, rel=1e-6)
    report = sparsefx.report(sparse).to_dict()
    assert report["budgets"]["macs"]["met"]
    if "pad" not in granularity:
        assert report["totals"]["macs"]["kept"] == info.hard_cost


@pytest.mark.parametrize("granularity", ["block:2x4", "channel", "1:4"])
def test_the_hard_cost_is_within_one_group_of_the_budget(granularity):
    for budget in np.linspace(0.3, 0.95, 12):
        sparse = sparse_of(granularity, budget=float(budget), keep_units=False)
        info = sparsefx.step(sparse)
        dropped = [
            site.unit_size * site.cost("macs")
            for site in sparsefx.sites(sparse)
            if not sparsefx.masks(sparse)[site.name].all()
        ]
        assert info.budget - info.hard_cost < max(dropped)


@pytest.mark.parametrize("granularity", ALL)
def test_density_one_is_the_identity(granularity):
    model = net()
    sparse = sparse_of(granularity, model=model, budget=1.0)
    assert torch.equal(sparse(X), model(X))
    assert all(mask.all() for mask in sparsefx.masks(sparse).values())
    F.mse_loss(sparse(X), torch.zeros(6, 8)).backward()
    mine = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    F.mse_loss(model(X), torch.zeros(6, 8)).backward()
    assert all(
        torch.equal(a, p.grad) for a, p in zip(mine, model.parameters(), strict=True)
    )


@pytest.mark.parametrize("granularity", ["block:4x2", "channel", "kernel", "2:4"])
def test_convolutions(granularity):
    x = torch.randn(2, 4, 6, 6)
    sparse = sparse_of(granularity, conv_net(), (x,))
    for site in sparsefx.sites(sparse):
        mask = sparsefx.masks(sparse)[site.name]
        sets = members(labels(granularity, site.shape, "transpose" in site.op))
        if granularity != "2:4":
            assert all(len({bool(mask[i]) for i in of}) == 1 for of in sets.values())
    sparse(x).square().mean().backward()
    sparsefx.step(sparse)
    done = sparsefx.finalize(sparse)
    torch.testing.assert_close(done(x), sparse(x))


def dense_masks(sparse, latent, shift):
    """Soft masks by plain autograd; ``shift`` moves the multipliers."""
    state = sparse.get_submodule("_sparsefx")
    masks, costs = {}, torch.zeros(len(shift), dtype=torch.float64)
    for i, site in enumerate(sparsefx.sites(sparse)):
        weight, slope = latent[site.name], state.slope[i]
        base = state.mu[i].detach() + shift[int(state.group[i])]
        if site.granularity.kind == "n_of_m":
            groups = site.groups
            runs = weight.abs().reshape(-1, groups.of)
            c = torch.zeros(len(runs), 1, dtype=torch.float64)
            for row in range(len(runs)):
                z = (slope * runs[row]).detach().numpy()
                c[row] = bisect(lambda mu, z=z: sigmoid(z + mu).sum(), groups.kept,
                                -z.max() - 9, -z.min() + 9)  # fmt: skip
            n = torch.sigmoid(slope * runs + c)
            s = (n * (1 - n)).detach()  # implicit function theorem for each c
            moved = (slope * s * (runs - runs.detach())).sum(1, keepdim=True)
            c = c - moved / s.sum(1, keepdim=True)
            n = torch.sigmoid(slope * runs + c).reshape(weight.shape)
            value = weight.abs()[~groups.top(weight)].mean()
            z = torch.sigmoid((value - state.center[i]) * slope + base)
            m = 1 - (1 - n) * (1 - z)
        else:
            m = torch.zeros_like(weight)
            for of in members(labels(str(site.granularity), site.shape)).values():
                pick = torch.zeros_like(weight)
                for index in of:
                    pick[index] = 1
                value = (weight.abs() * pick).sum() / site.unit_size
                z = torch.sigmoid((value - state.center[i]) * slope + base)
                m = m + pick * z
                full = site.unit_size / len(of)
                costs = costs.index_add(
                    0, state.group[i : i + 1], (full - 1) * site.cost("macs")
                    * z[None] * len(of),
                )  # fmt: skip
        masks[site.name] = m
        costs = costs.index_add(
            0, state.group[i : i + 1], site.cost("macs") * m.sum()[None]
        )
    return masks, costs


@pytest.mark.parametrize("granularity", ALL)
def test_the_gradient_is_exact(granularity):
    model = net().double()
    sparse = sparse_of(granularity, model, (X.double(),))
    target = torch.linspace(-1, 1, 48).reshape(6, 8).double()
    F.mse_loss(sparse(X.double()), target).backward()
    found = {n: p.grad.clone() for n, p in sparse.named_parameters()}
    latent = {
        n: p.detach().clone().requires_grad_() for n, p in sparse.named_parameters()
    }
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    soft, costs = dense_masks(sparse, latent, shift)
    seen = dict(latent)
    for name, hard in sparsefx.masks(sparse).items():
        through = soft[name] * latent[name]
        seen[name] = through + (hard * through - through).detach()
    loss = F.mse_loss(
        torch.func.functional_call(net().double(), seen, X.double()), target
    )
    names = list(latent)
    inputs = [latent[n] for n in names]
    direct = torch.autograd.grad(loss, [*inputs, shift], retain_graph=True)
    for i, name in enumerate(names):
        total = direct[i]
        for group in range(2):
            moved = torch.autograd.grad(
                costs[group], [inputs[i], shift], retain_graph=True, allow_unused=True
            )
            if moved[0] is not None and moved[1][group] > 1e-12:
                total = total - moved[0] * direct[-1][group] / moved[1][group]
        torch.testing.assert_close(found[name], total, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("granularity", ALL)
def test_compiled_equals_eager(granularity):
    sparse = sparse_of(granularity)
    twin = copy.deepcopy(sparse)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for run in (sparse, compiled):
        run(X).square().mean().backward()
    for a, b in zip(sparse.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


def train(sparse, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(sparse(X), X[:, :8]).backward()
        optimizer.step()
        info = sparsefx.step(sparse)
        assert info.hard_cost <= info.budget
    return info


@pytest.mark.parametrize("granularity", ALL)
def test_training_freezes_saves_and_resumes(granularity, tmp_path):
    def start():
        sparse = sparse_of(granularity, budget=0.6, total_steps=20)
        return sparse, torch.optim.SGD(sparse.parameters(), 0.1, momentum=0.9)

    sparse, optimizer = start()
    train(sparse, optimizer, 7)
    sparsefx.save(sparse, tmp_path / "seven.safetensors")
    kept = copy.deepcopy(optimizer.state_dict())
    info = train(sparse, optimizer, 13)
    assert info.frozen
    assert info.hard_cost <= 0.6 * sparsefx.report(sparse).totals["macs"].dense
    again, resumed = start()
    sparsefx.load(again, tmp_path / "seven.safetensors")
    resumed.load_state_dict(kept)
    train(again, resumed, 13)
    for a, b in zip(sparse.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    done = sparsefx.finalize(sparse)
    torch.testing.assert_close(done(X), sparse(X))
    for name, mask in sparsefx.masks(sparse).items():
        assert not done.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("granularity", ["block:2x4", "channel"])
def test_permuting_groups_permutes_masks(granularity):
    model = net(bias=False)
    masks = sparsefx.masks(sparse_of(granularity, model))
    order = torch.tensor([3, 2, 5, 4, 1, 0, 11, 10, 7, 6, 9, 8])  # keeps pairs of rows
    twin = net(bias=False)
    with torch.no_grad():
        twin[0].weight.copy_(model[0].weight[order])
    moved = sparsefx.masks(sparse_of(granularity, twin))
    assert torch.equal(moved["0.weight"], masks["0.weight"][order])


@pytest.mark.parametrize("granularity", ALL)
def test_more_budget_never_keeps_less(granularity):
    before = None
    for budget in np.linspace(0.55, 1.0, 10):
        now = sparsefx.masks(
            sparse_of(granularity, budget=float(budget), keep_units=False)
        )
        kept = sum(int(mask.sum()) for mask in now.values())
        assert before is None or kept >= before
        before = kept


@pytest.mark.parametrize("granularity", ALL)
def test_weights_that_are_not_finite_are_refused(granularity):
    sparse = sparse_of(granularity)
    before = sparsefx.masks(sparse)
    weight = dict(sparse.named_parameters())["0.weight"]
    old = float(weight.detach()[0, 0])
    with torch.no_grad():
        weight[0, 0] = math.nan
    with pytest.raises(MaskError, match=r"0\.weight"):
        sparsefx.step(sparse)
    with torch.no_grad():
        weight[0, 0] = old
    after = sparsefx.masks(sparse)
    assert all(torch.equal(mask, after[name]) for name, mask in before.items())


@pytest.mark.parametrize("value", [0.0, 0.5])
@pytest.mark.parametrize("granularity", ALL)
def test_equal_weights_are_kept_by_index(granularity, value):
    model = net()
    with torch.no_grad():
        model[0].weight.fill_(value)
        model[2].weight.fill_(value)
    sparse = sparse_of(granularity, model)
    info = sparsefx.step(sparse)
    assert info.hard_cost <= info.budget
    again = sparsefx.masks(sparse_of(granularity, model))
    for name, mask in sparsefx.masks(sparse).items():
        assert torch.equal(mask, again[name])


@pytest.mark.parametrize("policy", ["cost_budget", "uniform", "rigl"])
def test_kept_channels_are_multiples(policy):
    with pytest.raises(BudgetError, match="satisfiable"):
        sparse_of("channel", budget=0.3, round_to=4)
    for budget in (0.45, 0.55, 0.8, 1.0):
        more = {"optimizer_state": "keep"} if policy == "rigl" else {"beta": 3.0}
        sparse = sparsefx.transform(
            net(),
            example_inputs=(X,),
            granularity="channel",
            policy=policy,
            budget={"macs": budget},
            round_to=4,
            layers={"2": {"round_to": 3}},
            **more,
        )
        info = sparsefx.step(sparse)
        assert info.hard_cost <= info.budget
        masks = sparsefx.masks(sparse)
        kept = [int(mask.any(1).sum()) for mask in masks.values()]
        assert kept[0] % 4 == 0
        assert kept[1] % 3 == 0 or kept[1] == 8
    assert kept == [12, 8]


def test_multiples_spend_what_rounding_frees():
    sites = sparsefx.sites(sparse_of("channel"))
    sites = [dataclasses.replace(s, round_to=4) for s in sites]
    budget = Limits(((1.0, 1.0),), (15.0,), ("macs",))
    found = multiples(sites, [(0, 12), (0, 8)], [7, 7], budget)
    assert found == [(8, 8), (4, 4)]


def test_a_multiple_that_bounds_forbid_is_refused():
    with pytest.raises(BudgetError, match=r"no multiple of round_to 5 lies between"):
        sparse_of("channel", layers={"2": {"round_to": 5, "density": 0.5}})
