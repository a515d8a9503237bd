import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsefx.errors import BudgetError
from sparsefx.settings.budget import Budget, parse_budget


@pytest.mark.parametrize(
    ("given", "cost", "amount", "absolute"),
    [
        (0.1, "macs", 0.1, False),
        (1, "macs", 1.0, False),
        ("25%", "macs", 0.25, False),
        (" 0.1 ", "macs", 0.1, False),
        ("1e-2", "macs", 0.01, False),
        ({"params": 0.5}, "params", 0.5, False),
        ({"flops": "10 %"}, "macs", 0.1, False),
        ("1.2 GMACs", "macs", 1.2e9, True),
        ("1.2 gmacs", "macs", 1.2e9, True),
        ("300 MFLOPs", "macs", 150e6, True),
        ({"flops": "2 TFLOP"}, "macs", 1e12, True),
        ({"macs": "3 mac"}, "macs", 3.0, True),
        ({"flops": "3 MMACs"}, "macs", 3e6, True),
        ("5 MB", "bytes", 5e6, True),
        ("3 KiB", "bytes", 3 * 2**10, True),
        ("5 MiB", "bytes", 5 * 2**20, True),
        ("1.5 GiB", "bytes", 1.5 * 2**30, True),
        ("2 TiB", "bytes", 2 * 2**40, True),
        ({"bytes": "7 bytes"}, "bytes", 7.0, True),
        ("3 ms", "latency_ms", 3.0, True),
        ({"latency_ms": "0.5 s"}, "latency_ms", 500.0, True),
        ({"latency_ms": 0.6}, "latency_ms", 0.6, False),
        ("12k params", "params", 12e3, True),
        ({"params": "12000 parameters"}, "params", 12e3, True),
    ],
)
def test_what_is_accepted(given: Any, cost: str, amount: float, absolute: bool) -> None:
    (budget,) = parse_budget(given)
    assert (budget.cost, budget.absolute) == (cost, absolute)
    assert math.isclose(budget.amount, amount, rel_tol=1e-15)


def test_a_bare_fraction_is_of_the_default_cost() -> None:
    assert parse_budget(0.1, "params") == (Budget("params", 0.1),)
    assert parse_budget(0.1, "flops") == (Budget("macs", 0.1),)


def test_several_budgets_keep_their_order() -> None:
    found = parse_budget({"params": 0.2, "flops": "10%", "bytes": "3 MB"})
    assert [(b.cost, b.amount, b.absolute) for b in found] == [
        ("params", 0.2, False),
        ("macs", 0.1, False),
        ("bytes", 3e6, True),
    ]


def test_limit() -> None:
    assert Budget("macs", 0.25).limit(1000) == 250
    assert Budget("macs", 400, absolute=True).limit(1000) == 400


@given(st.floats(min_value=0, max_value=1, exclude_min=True))
def test_every_fraction_reads_back_as_itself(fraction: float) -> None:
    assert parse_budget(fraction) == parse_budget(repr(fraction))
    assert parse_budget(fraction)[0].limit(1.0) == fraction


FORMS = (
    'a fraction of the dense cost in (0, 1], a percentage such as "25%", or an '
    'amount with its unit such as "1.2 GMACs", "300 MFLOPs", "5 MB", "5 MiB", '
    '"3 ms" or "12000 params"'
)
SMALL = "is not positive; give a fraction of the dense cost in (0, 1], for example 0.1"
LARGE = (
    "is above 1; a number is a fraction of the dense cost, in (0, 1]; for an amount "
    "write a string with its unit, such as"
)


def percent(number: int) -> str:
    """The message where percents may be meant."""
    share = f'(0, 1] ("{number}%" or {number / 100:g} for {number} percent);'
    return LARGE.replace("(0, 1];", share)


COSTS = "is not known; known: macs, params, bytes, flops, latency_ms"
UNITS = (
    "known: MACs, FLOPs, params and B after k, M, G or T, KiB, MiB, GiB, TiB, and s, "
    "ms, us"
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, f"budget 0 {SMALL}"),
        (-0.5, f"budget -0.5 {SMALL}"),
        ("0%", f"budget '0%' {SMALL}"),
        ({"macs": 0}, f"budget {{'macs': 0}} {SMALL}"),
        (1.5, f'budget 1.5 {LARGE} "1.2 GMACs"'),
        ("150%", f"budget '150%' {LARGE} \"1.2 GMACs\""),
        (math.inf, f'budget inf {LARGE} "1.2 GMACs"'),
        ({"params": 12000}, f"budget {{'params': 12000}} {LARGE} \"12000 params\""),
        ({"flops": "7"}, f"budget {{'flops': '7'}} {percent(7)} \"300 MFLOPs\""),
        ({"bytes": 2}, f"budget {{'bytes': 2}} {percent(2)} \"5 MB\""),
        (math.nan, f"budget nan is not a number; give {FORMS}"),
        ("nan", f"budget 'nan' is not a number; give {FORMS}"),
        ("abc", f"budget 'abc' is not understood; give {FORMS}"),
        ("", f"budget '' is not understood; give {FORMS}"),
        (None, f"budget None is not understood; give {FORMS}"),
        (True, f"budget True is not understood; give {FORMS}"),
        ([0.1], f"budget [0.1] is not understood; give {FORMS}"),
        ({}, 'budget {} is empty; give one, such as {"macs": 0.1}'),
        (
            {"macs": 0.1, "flops": 0.2},
            "budget {'macs': 0.1, 'flops': 0.2} limits macs twice (flops are macs); "
            "keep one",
        ),
        ({"mac": 0.1}, f"budget cost 'mac' {COSTS}; did you mean 'macs'?"),
        ({"zzz": 0.1}, f"budget cost 'zzz' {COSTS}"),
        ({3: 0.1}, f"budget cost 3 {COSTS}"),
        ({"latency_ms": 3}, f"budget {{'latency_ms': 3}} {percent(3)} \"3 ms\""),
        (
            {"macs": "3 ms"},
            "budget {'macs': '3 ms'} limits macs but its unit is of latency_ms; write "
            "{'latency_ms': '3 ms'}, or an amount of macs",
        ),
        ("5 XB", f"budget '5 XB' has the unknown unit 'xb'; {UNITS}"),
        ("5 KiMACs", f"budget '5 KiMACs' has the unknown unit 'kimacs'; {UNITS}"),
        (
            {"params": "12k"},
            f"budget {{'params': '12k'}} has the unknown unit 'k'; {UNITS}",
        ),
        (
            {"macs": "5 MB"},
            "budget {'macs': '5 MB'} limits macs but its unit is of bytes; write "
            "{'bytes': '5 MB'}, or an amount of macs",
        ),
        (
            "-5 MB",
            "budget '-5 MB' is not positive and finite; give an amount such as "
            '"5 MB"',
        ),
    ],
)
def test_what_is_refused(given: Any, message: str) -> None:
    with pytest.raises(BudgetError) as caught:
        parse_budget(given)
    assert str(caught.value) == message
