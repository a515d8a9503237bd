"""Whatever a user may write where a setting is asked for, as hypothesis strategies."""

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from sparsefx.policies.policy import Policy
from sparsefx.settings.fields import settings_of
from sparsefx.settings.token_options import TokenOptions


class Broken:
    """An object on which nothing works."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no entries")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    def __bool__(self) -> bool:
        raise RuntimeError("neither")


def _entries() -> Iterator[int]:
    yield 1
    raise RuntimeError("no more")


SIZES = (0, 1, -1, 2, 10**400, -(10**30), 2**63, 0.0, 0.5, 1e308, 5e-324, -0.0)
STRANGE = (float("nan"), float("inf"), float("-inf"), True, False)
NUMBERS = st.sampled_from((*SIZES, *STRANGE)) | st.integers(-3, 300) | st.floats()
WORDS = (
    "",
    " ",
    "\0",
    "*",
    "**",
    "[",
    "[!",
    "re:",
    "re:(",
    "re:{99999999999}",
    "re:(?P<a",
    "re:" + "(" * 200,
    "re:(a|b" * 60,
    "é",
    "\ud800",
    "25%",
    "-1%",
    "1e999 MACs",
    "1.2 GMACs",
    "3 ms",
    "5 MB",
    "nan",
    "1_000 params",
    "٣%",
    "block:16x16",
    "block:0x0",
    "block:" + "9" * 5000 + "x1",
    "2:4",
    "²:4",
    "0:0",
    "macs",
    "flops",
    "params + macs",
    "macs*macs",
    "macs**8",
    "(macs + params)**8",
    "((macs+params)**8)**8",
    "1/(macs-macs)",
    "macs/0",
    "0*macs",
    "1e999*macs",
    "macs if 1 else 2",
    "lambda: macs",
    "__import__('os')",
    "macs" + "+macs" * 120,
    "(" * 150 + "macs" + ")" * 150,
    "-" * 400 + "macs",
    "batch",
    "0x10*macs",
    "9" * 400 + "*macs",
    "10**8**8*macs",
    "(10**8)**8*macs",
    "macs\n+params",
    "0.bias",
    "0",
    "2",
    "before",
    "layer",
    "zero",
    "none",
    "rigl",
    "tokens",
    "units_taylor",
    "erk",
    "layerwise",
    "same_latency",
    "sparse_wide",
    "constant",
    "linear",
    "selected",
    "bsr",
    "min_density",
    "density",
    "round_to",
    "granularity",
    "keep",
)
TEXTS = st.sampled_from(WORDS) | st.text(max_size=8)
EXPRESSIONS = st.recursive(
    st.sampled_from(["macs", "params", "batch", "0", "1", "0.5", "8", "x", "1e400"]),
    lambda inner: st.one_of(
        st.builds("({}{}{})".format, inner, st.sampled_from("+-*/"), inner),
        st.builds("({}**{})".format, inner, inner),
        st.builds("-{}".format, inner),
        st.builds("{}({})".format, inner, inner),
    ),
    max_leaves=12,
)
OBJECTS = (
    st.sampled_from(
        [
            None,
            b"macs",
            1j,
            Decimal("0.5"),
            Fraction(1, 2),
            torch.tensor(0.5),
            torch.ones(3),
            np.float64(0.5),
            np.int64(3),
            np.ones(2),
            object,
            len,
            lambda *_: 1,
            object(),
        ]
    )
    | st.builds(Broken)
    | st.builds(_entries)
)
KEYS = TEXTS | EXPRESSIONS | st.sampled_from([0, None, True, 0.5, (1, 2), b"a"])
ANY = st.recursive(
    NUMBERS | TEXTS | EXPRESSIONS | OBJECTS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.tuples(inner)
        | st.sets(TEXTS, max_size=2)
        | st.dictionaries(KEYS, inner, max_size=2)
    ),
    max_leaves=5,
)
FIELDS = st.dictionaries(
    st.sampled_from(sorted(settings_of(Policy))) | KEYS, ANY, min_size=1, max_size=3
)
TOKENS = st.dictionaries(
    st.sampled_from(sorted(settings_of(TokenOptions))) | KEYS, ANY, max_size=3
)
SCRAPS = (
    *("a: ", "- ", "? ", ": ", "[", "]", "{", "}", ", ", "\n", "  ", "&a ", "*a "),
    *("!!int ", "!!float ", "!!bool ", "!!binary ", "!!timestamp ", "!!map ", "!x "),
    *("!!set ", "!!omap ", "!!pairs ", "!!null ", "!!python/name:os.getcwd ", "<<: "),
    *("2020-13-45", "2020-01-01", "0x", "0b2", "1e400", ".inf", "1:60:99", "=", "''"),
    *("beta: ", "budget: ", "layers: ", "tokens: ", "|\n", ">\n", "%YAML 9\n", "---\n"),
    *("\t", "#", "\0", "\ud800", "\x85", "é", "0.5", "12", "rigl", "~", "'", '"', "@"),
)
YAMLS = st.lists(st.sampled_from(SCRAPS), max_size=10).map("".join) | st.text(
    max_size=20
)
PATTERN = st.sampled_from(["*", "0", "2", "2.weight", "re:[02]", "re:0", "0.*", "9"])
PATTERNED = st.sampled_from(["min_density", "max_density", "density"])
PARTS = st.sampled_from([0.0, 0.1, 0.5, 1.0, 1e-9])
GRAINS = st.sampled_from(
    ["unstructured", "block:2x2", "block:3x5:pad", "block:3x5", "2:4", "channel"]
)
LAYERS = st.dictionaries(
    PATTERN,
    st.dictionaries(PATTERNED, PARTS, max_size=2)
    | st.builds(lambda unit: {"granularity": unit}, GRAINS)
    | st.builds(lambda number: {"round_to": number}, st.integers(1, 9)),
    max_size=2,
)
COSTS = (
    "macs",
    "params",
    "bytes",
    "flops",
    "energy",
    "macs + 2*params",
    "energy/batch",
)
AMOUNTS = st.sampled_from(
    [1e-9, 0.05, 0.3, 1.0, "1 MACs", "90 params", "1 KiB", "1e300 params", "30 energy"]
) | st.sampled_from(["25%", "12 kFLOPs", "1e-300 B"])
# Values that may stand in a policy, though not with each other or with a model.
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "allocation": st.sampled_from(
        ["cost_budget", "uniform", "erk", "layerwise", "sensitivity"]
    ),
    "cost": st.sampled_from(COSTS),
    "budget": AMOUNTS
    | st.dictionaries(st.sampled_from(COSTS), AMOUNTS, min_size=1, max_size=3),
    "budget_of": st.sampled_from(["maskable", "model", "selected"]),
    "initial_budget": PARTS,
    "budget_ramp": st.sampled_from(["constant", "linear", "cubic"]),
    "end_step": st.sampled_from([0, 0.0, 0.5, 1, 7]),
    "freeze_step": st.sampled_from([None, 0, 0.5, 1.0, 5]),
    "total_steps": st.sampled_from([None, 1, 2, 10]),
    "update_every": st.integers(1, 9) | st.sampled_from([0.01, 0.4]),
    "learner": st.sampled_from(["soft_topk", "rigl", "set", "granet", "fixed"])
    | st.sampled_from(["magnitude", "dual_averaging", "tokens"])
    | st.sampled_from(["units_taylor", "units_magnitude", "units_soft_topk"]),
    "beta": st.sampled_from([1e-300, 1e-3, 20.0, 1e300]),
    "backward_density": PARTS,
    "dropped": st.sampled_from(["zero", "hold"]),
    "inclusive": st.booleans(),
    "keep_units": st.booleans(),
    "normalize": st.sampled_from(["layer", "global", "none"]),
    "granularity": GRAINS,
    "round_to": st.integers(1, 9),
    "fallback": st.sampled_from(["error", "dense"]),
    "include": st.lists(PATTERN, max_size=2),
    "exclude": st.lists(PATTERN, max_size=2),
    "layers": LAYERS,
    "densities": st.dictionaries(PATTERN, PARTS, max_size=2),
    "storage": st.sampled_from(["values", "dense", "csr", "bitmask", "2:4", "bsr"]),
    "costs": st.dictionaries(
        st.just("energy"),
        st.dictionaries(PATTERN, st.sampled_from([0, 1.5, 1e300]), min_size=1),
        max_size=1,
    ),
    "sizes": st.dictionaries(
        st.sampled_from(["batch", "tokens"]), st.sampled_from([1, 64, 10**18])
    ),
    "min_density": PARTS,
    "max_density": PARTS,
    "unit_density": PARTS,
    "tokens": st.dictionaries(
        st.sampled_from(["before", "keep", "min_keep"]), st.sampled_from([0, 0.5, "0"])
    ),
    "rewrite": st.sampled_from(
        ["none", "sparse_wide", "sparse_parallel", "sparse_factorized", "sparse_doped"]
    ),
    "density": PARTS,
}
POLICIES = st.sets(st.sampled_from(sorted(PLAUSIBLE)), min_size=1, max_size=5).flatmap(
    lambda names: st.fixed_dictionaries({n: PLAUSIBLE[n] for n in sorted(names)})
)
