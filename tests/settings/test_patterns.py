"""Patterns over names: what they match, which one wins, what is refused."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsefx.errors import PolicyError
from sparsefx.settings.patterns import Selection, most_specific, select

NAMES = [
    ("stem.conv.weight", "stem.conv"),
    ("blocks.0.fc1.weight", "blocks.0.fc1"),
    ("blocks.0.fc2.weight", "blocks.0.fc2"),
    ("blocks.1.fc1.weight", "blocks.1.fc1"),
    ("encoder.weight", "encoder"),
    ("encoder2.weight", "encoder2"),
    ("scale", ""),
]


def kept(**patterns):
    return [
        name for name, choice in select(NAMES, **patterns).items() if choice.selected
    ]


def test_no_pattern_selects_everything() -> None:
    assert kept() == [name for name, _ in NAMES]
    assert select(NAMES)["scale"] == Selection(True)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("stem.conv", ["stem.conv.weight"]),
        ("stem.conv.weight", ["stem.conv.weight"]),
        ("blocks.*.fc1", ["blocks.0.fc1.weight", "blocks.1.fc1.weight"]),
        ("blocks.0.*", ["blocks.0.fc1.weight", "blocks.0.fc2.weight"]),
        ("encoder", ["encoder.weight"]),
        ("encoder?", ["encoder2.weight"]),
        ("re:encoder2?", ["encoder.weight", "encoder2.weight"]),
        ("re:blocks\\.\\d+\\.fc2", ["blocks.0.fc2.weight"]),
        ("scale", ["scale"]),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    assert kept(include=(pattern,)) == expected
    rest = [name for name, _ in NAMES if name not in expected]
    assert kept(exclude=(pattern,)) == rest


def test_case_counts() -> None:
    with pytest.raises(PolicyError, match="'Encoder' matches no layer"):
        select(NAMES, include=("Encoder",))


def test_reasons() -> None:
    chosen = select(NAMES, include=("blocks.*",), exclude=("*.fc2",))
    assert chosen["stem.conv.weight"].reason == "not matched by include 'blocks.*'"
    assert chosen["blocks.0.fc2.weight"].reason == "excluded by '*.fc2'"
    assert chosen["blocks.0.fc1.weight"].reason == "included by 'blocks.*'"
    assert select(NAMES)["blocks.0.fc1.weight"].reason == ""


@pytest.mark.parametrize("pattern", ["embed", "head", "head.weight", "re:he.*", "emb*"])
def test_a_tied_weight_goes_by_each_of_its_names(pattern: str) -> None:
    tied = ("embed.weight", "embed", "head.weight", "head")
    names = [tied, ("fc.weight", "fc")]
    chosen = select(names, include=(pattern,))
    assert [choice.selected for choice in chosen.values()] == [True, False]
    assert not select(names, exclude=(pattern,))["embed.weight"].selected
    layers = {pattern: {"density": 0.5}}
    assert select(names, layers=layers)["embed.weight"].max_density == 0.5
    assert most_specific("costs", names, {pattern: 2.0}) == {"embed.weight": 2.0}


def test_more_specific_wins_whatever_the_order() -> None:
    settings = [
        ("blocks.0.fc1", {"max_density": 0.3}),
        ("blocks.*", {"max_density": 0.5, "min_density": 0.1}),
        ("*", {"min_density": 0.05}),
    ]
    for layers in (dict(settings), dict(reversed(settings))):
        chosen = select(NAMES, layers=layers)
        first = chosen["blocks.0.fc1.weight"]
        assert (first.min_density, first.max_density) == (0.1, 0.3)
        assert chosen["blocks.1.fc1.weight"].max_density == 0.5
        assert chosen["scale"].min_density == 0.05


def test_among_equals_the_later_wins() -> None:
    layers = {"*.fc1": {"density": 0.1}, "fc1*": {"density": 0.2}}
    names = [("fc1.fc1.weight", "fc1.fc1")]
    assert select(names, layers=layers)["fc1.fc1.weight"].min_density == 0.1
    layers = {"?.fc1": {"density": 0.1}, "*.fc1": {"density": 0.2}}
    names = [("a.fc1.weight", "a.fc1")]
    assert select(names, layers=layers)["a.fc1.weight"].min_density == 0.2


def test_density_sets_both_bounds() -> None:
    choice = select(NAMES, layers={"encoder": {"density": 0.5}})["encoder.weight"]
    assert (choice.min_density, choice.max_density) == (0.5, 0.5)


@given(st.floats(0, 1), st.floats(0, 1))
def test_defaults_reach_every_weight(one: float, other: float) -> None:
    low, high = sorted((one, other))
    for choice in select(
        NAMES, default=Selection(True, min_density=low, max_density=high)
    ).values():
        assert choice == Selection(True, "", low, high)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"include": ("encodr",)},
            "include pattern 'encodr' matches no layer; did you mean 'encoder', "
            "'encoder2'? available: stem.conv, blocks.0.fc1, blocks.0.fc2, "
            "blocks.1.fc1, encoder, encoder2, scale",
        ),
        (
            {"exclude": ("blocks.0",)},
            "exclude pattern 'blocks.0' matches no layer, but has layers inside; did "
            "you mean 'blocks.0.*'?",
        ),
        ({"layers": {"zzz": {"density": 1.0}}}, "layers pattern 'zzz' matches no"),
        ({"include": ("re:(",)}, "pattern 're:(' is not a regular expression"),
        (
            {"exclude": ("*",)},
            "include and exclude leave no weight to mask; shorten exclude or widen "
            "include",
        ),
        (
            {"layers": {"*": {"min_density": 0.5}, "encoder": {"max_density": 0.25}}},
            "encoder.weight: min_density 0.5 is above max_density 0.25 (patterns '*', "
            "'encoder'); lower min_density or raise max_density",
        ),
        (
            {
                "layers": {"encoder": {"density": 0.1}},
                "default": Selection(True, min_density=0.5),
            },
            "encoder.weight: density 0.1 is outside min_density 0.5 and max_density 1 "
            "(patterns 'encoder'); change one of them",
        ),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(message)):
        select(NAMES, **options)


def test_the_list_of_layers_is_short() -> None:
    names = [(f"l{i}.weight", f"l{i}") for i in range(20)]
    message = "available: l0, l1, l2, l3, l4, l5, l6, l7 and 12 more"
    with pytest.raises(PolicyError, match=message):
        select(names, include=("zzz",))


def test_settings_of_an_excluded_layer_warn() -> None:
    message = "layers pattern 'encoder' has no effect: every layer it matches stays"
    with pytest.warns(UserWarning, match=message):
        select(NAMES, exclude=("enc*",), layers={"encoder": {"density": 0.5}})
