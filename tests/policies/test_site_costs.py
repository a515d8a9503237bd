"""Storages, costs of the user's own, expressions of costs, sizes."""

import re
from typing import Any

import pytest
import sympy
import torch
import yaml
from torch import nn

import sparsefx
from sparsefx.errors import BudgetError, PolicyError
from sparsefx.masking.site import Granularity, Site
from sparsefx.policies.policy import Policy
from sparsefx.policies.storage import stored
from sparsefx.settings.budget import Budget, parse_budget
from sparsefx.settings.cost_expression import parse_expression

COSTS = ("macs", "params", "bytes", "energy")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))


X = torch.ones(4, 16)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("macs", {"macs": 1}),
        ("0.7*macs + 0.3*params", {"macs": 0.7, "params": 0.3}),
        ("2*(macs + params)/4", {"macs": 0.5, "params": 0.5}),
        ("flops + macs", {"macs": 3}),
        ("+energy*3 - -energy", {"energy": 4}),
        ("macs**2/macs", {"macs": 1}),
        ("1e-3*bytes", {"bytes": 1e-3}),
    ],
)
def test_expressions(text: str, expected: dict[str, Any]) -> None:
    found = parse_expression(text, COSTS)
    assert {k: float(v) for k, v in found.items()} == pytest.approx(expected)


def test_sizes_stay_symbolic() -> None:
    found = parse_expression("macs/batch + tokens*params", COSTS)
    batch, tokens = sympy.symbols("batch tokens")
    assert found == {"macs": 1 / batch, "params": tokens}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs**2", "the term macs**2 is not a number times one cost"),
        ("macs*params + macs", "the term macs*params is not a number times one cost"),
        ("macs/params", "the term macs/params is not a number times one cost"),
        ("macs + 5", "has the constant term 5, which no mask changes; leave it out"),
        ("0*macs", "has the constant term 0"),
        ("macs - 2*params", "has the coefficient -2 of params; it must be above 0"),
        ("makcs + params", "has the name 'makcs', which is not known; did you mean"),
        ("__import__('os')", "has \"__import__('os')\", which is not understood"),
        ("macs.real", "has 'macs.real', which is not understood"),
        ("[macs][0]", "has '[macs][0]', which is not understood"),
        ("macs + True", "has 'True', which is not understood"),
        ("macs if 1 else 2", "which is not understood"),
        ("macs +", "has a mistake in its syntax"),
        ("macs/0", "has a division by 0"),
        ("macs**99999", "has the power 99999, which is no small integer"),
        ("macs + " * 200 + "macs", "is too long; write at most 500"),
    ],
)
def test_expressions_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)):
        parse_expression(text, COSTS)


def test_budgets_of_costs_of_your_own() -> None:
    own = ("energy",)
    assert parse_budget({"energy": 0.5}, own=own) == (Budget("energy", 0.5),)
    assert parse_budget({"energy": "12 k energy"}, own=own) == (
        Budget("energy", 12e3, absolute=True),
    )
    assert parse_budget("50%", "macs + energy", own) == (Budget("macs + energy", 0.5),)
    for text in ("3 J", "-1 energy", "0 energy", "1e999 energy", "x"):
        with pytest.raises(BudgetError, match="with the cost's name, such as"):
            parse_budget({"energy": text}, own=own)
    with pytest.raises(BudgetError, match="a mixture of costs, which has no unit"):
        parse_budget({"macs + energy": "3 MACs"}, own=own)
    with pytest.raises(BudgetError, match="flops, latency_ms, energy"):
        parse_budget({"watts": 0.1}, own=own)
    with pytest.raises(PolicyError, match="not linear"):
        parse_budget({"macs*energy": 0.1}, own=own)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storage": "zip"}, "storage 'zip' is not known"),
        ({"costs": 3}, "costs is 3; give a mapping from names to costs by pattern"),
        ({"costs": {"macs": {"*": 1}}}, "a name in costs is 'macs'; give a word that"),
        ({"costs": {"a b": {"*": 1}}}, "a name in costs is 'a b'; give a word that is"),
        ({"costs": {"e": {}}}, "costs['e'] is {}; give a mapping from patterns to"),
        ({"costs": {"e": {"*": -1}}}, "costs['e']['*'] is -1; give the cost of a kept"),
        ({"sizes": 3}, "sizes is 3; give a mapping from names of sizes to whole"),
        ({"sizes": {"batch": 0}}, "sizes['batch'] is 0; give a whole number of at"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)):
        Policy(**options)


def test_a_policy_with_costs_reads_back() -> None:
    policy = Policy(
        cost="macs + energy",
        costs={"energy": {"*": 1, "0": 2.5}},
        sizes={"batch": 3},
        storage="csr",
    )
    text = policy.to_yaml()
    assert sparsefx.load_policy(yaml.safe_load(text)) == policy


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_stored_bytes_are_those_of_torch() -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 16) * (torch.rand(12, 16) < 0.3)
    kept = int(weight.count_nonzero())
    site = Site("w", "fc", "linear", (12, 16), {})
    csr = weight.to_sparse_csr()
    parts = (csr.values(), csr.col_indices(), csr.crow_indices())
    found = stored(site, "csr", 4)
    assert found.fixed + found.per_kept * kept == sum(p.nbytes for p in parts)
    blocks = torch.kron((torch.rand(3, 4) < 0.5).float(), torch.ones(4, 4))
    bsr = blocks.to_sparse_bsr((4, 4))
    parts = (bsr.values(), bsr.col_indices(), bsr.crow_indices())
    site = Site("w", "fc", "linear", (12, 16), {}, granularity=Granularity.parse(
        "block:4x4"))  # fmt: skip
    found = stored(site, "bsr", 4)
    total = found.fixed + found.per_kept * int(blocks.count_nonzero())
    assert total == sum(p.nbytes for p in parts)
    half = Site("w", "", "linear", (8, 8), {}, granularity=Granularity.parse("2:4"))
    # 32 values of 4 bytes, 2 bits for each
    assert stored(half, "2:4", 4).per_kept * 32 == 32 * 4 + 32 / 4


@pytest.mark.parametrize(
    ("storage", "needed"), [("2:4", "2:4"), ("bsr", "block:4x4"), ("x", "known")]
)
def test_storages_that_do_not_fit(storage: str, needed: str) -> None:
    with pytest.raises(PolicyError, match=needed):
        stored(Site("w", "fc", "linear", (12, 16), {}), storage, 4)


@pytest.mark.parametrize(
    ("storage", "per", "fixed"),
    [("values", 4, 0), ("csr", 12, 8 * (33 + 9)), ("bitmask", 4, (512 + 256) // 8)],
)
def test_bytes_of_a_storage_are_met(storage: str, per: int, fixed: int) -> None:
    sparse = sparsefx.transform(
        net(), budget={"bytes": "1500 B"}, storage=storage, example_inputs=(X,)
    )
    kept = sum(int(m.sum()) for m in sparsefx.masks(sparse).values())
    assert 1500 - per < fixed + per * kept <= 1500
    budget = sparsefx.report(sparse).to_dict()["budgets"]["bytes"]
    assert budget == {"limit": 1500, "kept": fixed + per * kept, "met": True}
    info = sparsefx.step(sparse)
    assert info.soft_cost == pytest.approx(1500, rel=1e-6)


def test_storage_may_take_all_of_a_budget() -> None:
    with pytest.raises(BudgetError, match="above the 336 that storage 'csr' takes"):
        sparsefx.transform(
            net(), budget={"bytes": "300 B"}, storage="csr", example_inputs=(X,)
        )


def test_costs_of_your_own_and_mixtures_are_met() -> None:
    costs = {"energy": {"*": 1.0, "0": 3.0}}
    budget = {"energy": 0.2, "0.7*macs + 0.3*energy": 0.25}
    sparse = sparsefx.transform(
        net(), budget=budget, costs=costs, example_inputs=(X,), keep_units=False
    )
    first, second = (int(m.sum()) for m in sparsefx.masks(sparse).values())
    dense = 3 * 512 + 256
    assert 0.2 * dense - 3 < 3 * first + second <= 0.2 * dense
    info = sparsefx.step(sparse)
    mixed = 0.7 * 4 * (first + second) + 0.3 * (3 * first + second)
    assert info.budgets["0.7*macs + 0.3*energy"][2] == pytest.approx(mixed)
    assert mixed <= 0.25 * (0.7 * 4 * 768 + 0.3 * dense)
    text = str(sparsefx.report(sparse))
    assert "energy kept" in text
    assert sparsefx.report(sparse).totals["energy"].fixed == 0
    with pytest.raises(PolicyError, match=re.escape("costs['energy'] pattern 'zz'")):
        sparsefx.transform(
            net(), costs={"energy": {"zz": 1}}, budget={"energy": 0.5},
            example_inputs=(X,),
        )  # fmt: skip


def test_a_bare_budget_may_be_of_a_mixture() -> None:
    sparse = sparsefx.transform(
        net(), cost="macs/batch + params", budget=0.5, example_inputs=(X,)
    )
    site = sparsefx.sites(sparse)[0]
    assert site.cost("macs/batch + params") == 2.0


def test_sizes_bind_symbols() -> None:
    table = sparsefx.costs(net(), (X,), sizes={"batch": 32})
    assert table["0.weight"].number() == 32 * 512
    assert str(table["0.weight"].macs) == "512*batch"
    sparse = sparsefx.transform(
        net(), budget={"macs": "9 kMACs"}, sizes={"batch": 32}, example_inputs=(X,)
    )
    kept = sum(int(m.sum()) for m in sparsefx.masks(sparse).values())
    assert kept == 9000 // 32
    with pytest.raises(PolicyError, match="sizes has 'tokens', which no cost depends"):
        sparsefx.costs(net(), (X,), sizes={"tokens": 2})


def test_the_command_line_takes_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    from sparsefx.cli import main

    words = ["costs", "torch.nn:Bilinear", "--size"]
    assert main([*words, "batch"]) == 2
    assert "size 'batch' is not understood; write batch=32" in capsys.readouterr().err
