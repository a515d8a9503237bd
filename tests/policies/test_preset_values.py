"""Where each value of each preset comes from; one that moves, or has no source, fails.

Papers: Spartan arXiv 2205.14107, Top-KAST 2106.03517, SET 1707.04780, RigL 1911.11134,
GMP 1710.01878, GraNet 2106.10404, SViTE 2106.04533, Sparse-IFT 2303.11525, static
random masks 2202.02643. "Code" is what their authors published with them.
"""

import pytest

from sparsefx.policies.load_policy import load_policy
from sparsefx.policies.presets import preset_names, read_preset

SPARTANS = "spartan spartan_block spartan_paper"
RAMPED = f"{SPARTANS} magnitude topkast"  # the baselines of Spartan's code
REWRITES = "sparse_wide sparse_parallel sparse_factorized sparse_doped"
REGROWS = f"rigl set granet granet_sparse svite svite_joint svite_units {REWRITES}"
GRANETS = "granet granet_sparse"
VITS = "svite svite_joint svite_units"

# Presets, the values they share, and where those are from or why they are not theirs.
SOURCES: list[tuple[str, dict[str, object], str]] = [
    # -- who decides how much where ------------------------------------------------
    (
        f"{RAMPED} gmp {GRANETS}",
        {"allocation": "cost_budget"},
        "one threshold over all layers: Spartan's `global`, GMP's and GraNet's global "
        "prune",
    ),
    (
        "cost_budget nm_2_4",
        {"allocation": "cost_budget", "cost": "macs", "normalize": "layer"},
        "own: layers compared by their own scale, so that none dies of small weights",
    ),
    (
        "rigl set fixed svite svite_joint",
        {"allocation": "erk"},
        "RigL 3 (1): ERK; SViTE's scripts: fixed_ERK; static masks with ERK's "
        "densities: arXiv 2202.02643",
    ),
    ("erk", {"allocation": "erk", "cost": "macs"}, "RigL 3 (1); cost: own default"),
    ("er", {"allocation": "er", "cost": "macs"}, "SET 2; cost: own default"),
    (
        REWRITES,
        {"allocation": "uniform", "cost": "macs"},
        "code: uniform density; all members at equal FLOPs",
    ),
    ("uniform", {"allocation": "uniform", "cost": "macs"}, "own baseline"),
    (
        "layerwise",
        {"allocation": "layerwise", "cost": "macs", "budget": 1.0},
        "own: densities are given, so the budget allows all of them",
    ),
    (
        "same_latency",
        {"allocation": "same_latency", "cost": "latency_ms", "budget": 0.6},
        "own: milliseconds, a share that sparse kernels can reach",
    ),
    ("sensitivity", {"allocation": "sensitivity", "cost": "macs"}, "own"),
    (
        f"{RAMPED} gmp {GRANETS} rigl set fixed svite",
        {"cost": "params"},
        "the papers' sparsity is that of the parameters (Spartan: cost model "
        "`sparsity`)",
    ),
    ("svite_joint", {"cost": "macs"}, "tokens save MACs and no parameters"),
    # -- learners ------------------------------------------------------------------
    ("magnitude gmp", {"learner": "magnitude"}, "the largest weights"),
    ("topkast", {"learner": "dual_averaging"}, "Spartan's code: dual averaging"),
    (GRANETS, {"learner": "granet"}, "prune globally, regrow by gradient"),
    (f"rigl svite svite_joint {REWRITES}", {"learner": "rigl"}, "grow by gradient"),
    ("set", {"learner": "set"}, "grow at random"),
    ("fixed", {"learner": "fixed"}, "masks are drawn once"),
    ("svite_units", {"learner": "units_taylor"}, "S2ViTE's scores"),
    ("svite_tokens", {"learner": "tokens"}, "SViTE+ without weights"),
    ("units", {"learner": "units_magnitude"}, "own: L1 norms per cost, all layers"),
    # -- the budget's way ----------------------------------------------------------
    (
        RAMPED,
        {"budget_ramp": "linear", "end_step": 0.2, "freeze_step": 0.8},
        "Spartan's code: annealing linear, warm-up fraction .2, fine-tune fraction .2",
    ),
    (
        f"gmp {GRANETS}",
        {"budget_ramp": "cubic", "end_step": 0.5},
        "GMP (1): cubic; GraNet's code: 80 of 160 epochs (CIFAR)",
    ),
    (
        "gmp",
        {"freeze_step": 0.8},
        "own: the end of training is with masks that stand, as with Spartan's",
    ),
    (
        f"{GRANETS} fixed svite_tokens",
        {"freeze_step": None},
        "GraNet's code regrows until the last step; the others have no masks that "
        "move, and the temperature cools to the end",
    ),
    ("granet_sparse", {"initial_budget": 0.5}, "GraNet: s_i = 0.5"),
    (
        f"rigl set fixed svite_tokens {VITS} {REWRITES}",
        {"budget_ramp": "constant"},
        "sparse from the start",
    ),
    (
        "units",
        {
            "budget_ramp": "cubic",
            "end_step": 0.5,
            "freeze_step": 0.8,
            "budget": 0.5,
            "update_every": 0.02,
        },
        "own: GMP's ramp; 25 updates in it",
    ),
    # -- Spartan -------------------------------------------------------------------
    (
        SPARTANS,
        {"beta_initial": 1.0, "beta": 20.0, "beta_ramp": "linear"},
        "code: beta 1 to 20 (ViT and default; its ResNet script has 10), linear",
    ),
    (
        "spartan spartan_block",
        {"normalize": "global"},
        "differs: in the code beta has the unit of the weights, so that kept ones "
        "shrink; divided by their mean it has none",
    ),
    (
        f"spartan_paper magnitude topkast gmp {GRANETS}",
        {"normalize": "none"},
        "code: raw magnitudes",
    ),
    (
        "spartan_paper",
        {"budget_of": "model", "inclusive": True, "keep_units": False},
        "code: the target is of all parameters, the threshold keeps its ties, no layer "
        "is protected",
    ),
    (
        "spartan_paper",
        {"soft_when_frozen": True},
        "code: after the freeze latent weights learn on under a fixed soft mask",
    ),
    (
        "spartan_block",
        {"granularity": "block:16x16", "fallback": "dense", "keep_units": False},
        "code: 16 x 16 for ViT-B/16, no layer is protected; what has no such blocks is "
        "unstructured there, and stays dense here",
    ),
    ("magnitude", {"dropped": "hold"}, "Spartan's code: dropped weights train on"),
    # -- RigL, SET, GraNet, Sparse-IFT ---------------------------------------------
    (
        f"rigl set {REWRITES}",
        {"drop_fraction": 0.3, "freeze_step": 0.75},
        "RigL 4: alpha .3, T_end 3/4 of the training; Sparse-IFT's code: .3, 75 %",
    ),
    (
        f"{GRANETS} {VITS}",
        {"drop_fraction": 0.5, "drop_fraction_final": 0.005},
        "code of both: .5 falls to .005",
    ),
    (REWRITES, {"density": 0.5}, "Sparse-IFT's least sparsity"),
    *((name, {"rewrite": name}, "its member") for name in REWRITES.split()),
    (
        f"gmp {REGROWS}",
        {"update_every": 0.01},
        "SViTE's code: 15 000 of 1 501 200 iterations (Small); GraNet's: 1 000 of "
        "62 560 (CIFAR), 4 000 of 1 000 900. RigL's, GMP's and Sparse-IFT's 100 of "
        "25 000 to 80 000 would leave a short run without updates: a share fits any",
    ),
    # -- SViTE ---------------------------------------------------------------------
    (VITS, {"budget": 0.5, "freeze_step": 0.8}, "paper: 50 %; code: t_end .8"),
    (
        "svite svite_joint",
        {"optimizer_state": "keep", "keep_units": False},
        "code: AdamW's moments stay; no layer is protected",
    ),
    (
        "svite_joint svite_tokens",
        {"budget_of": "model"},
        "tokens save what no mask can",
    ),
    (
        "svite_joint",
        {"tokens": {"before": 0, "min_keep": 0.9, "tau": [10.0, 0.1]}},
        "code: in front of block 0, tau 10 to .1; paper's headline: 5 % of the tokens "
        "(its rows: 5 and 10 %)",
    ),
    (
        "svite_tokens",
        {"budget": 0.7, "tokens": {"before": 0, "tau": [10.0, 0.1]}},
        "code: as above; 30 % fewer is its third row",
    ),
    ("nm_2_4", {"granularity": "2:4", "budget": 0.5}, "two of four is a half"),
]


@pytest.mark.parametrize("name", preset_names())
def test_each_value_is_that_of_its_source(name: str) -> None:
    told: dict[str, object] = {"name": name}
    for presets, values, _ in SOURCES:
        if name in presets.split():
            assert not told.keys() & values.keys(), "told twice"
            told |= values
    assert read_preset(name) == told


def test_sources_speak_of_presets_only() -> None:
    for presets, values, why in SOURCES:
        assert set(presets.split()) <= set(preset_names())
        assert values
        assert why


@pytest.mark.parametrize(
    ("name", "steps", "shares"),
    [
        # GraNet's r(t), printed by its code at 25, 50 and 75 %
        ("granet", 1000, {250: 0.427509, 500: 0.2525, 750: 0.077491}),
        # RigL's alpha / 2 (1 + cos(pi t / T_end)) with T_end = 75 %
        ("rigl", 1000, {250: 0.225, 500: 0.075, 740: 0.0001315}),
        # SViTE's rho, which falls to its floor at t_end here and at T there
        ("svite", 1000, {400: 0.2525, 200: 0.427509, 600: 0.077491}),
    ],
)
def test_shares_that_move_are_the_papers(
    name: str, steps: int, shares: dict[int, float]
) -> None:
    schedule = load_policy(name, total_steps=steps).schedule()
    for step, share in shares.items():
        assert schedule.at(step).drop_fraction == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "initial", "budgets"),
    [
        ("granet_sparse", 0.5, [0.3916, 0.3048, 0.2372, 0.1864, 0.15, 0.1256, 0.1108]),
        ("gmp", 1.0, [0.7561, 0.5608, 0.4087, 0.2944, 0.2125, 0.1576, 0.1243]),
    ],
)
def test_ramps_are_the_papers(name: str, initial: float, budgets: list[float]) -> None:
    """Densities at tenths of the ramp, to 10 %: tables made by GraNet's code."""
    schedule = load_policy(name, total_steps=2000).schedule()
    for tenth, wanted in enumerate(budgets, start=1):
        progress = schedule.at(tenth * 100).budget_progress
        assert initial + (0.1 - initial) * progress == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("total", [100, 300, 1000, 80_000, 1_501_200])
@pytest.mark.parametrize("name", preset_names())
def test_presets_fit_runs_of_any_length(name: str, total: int) -> None:
    """At least twenty updates where masks move, and no warning of too few."""
    policy = load_policy(name, total_steps=total)
    schedule, every = policy.schedule(), policy.interval()
    last = schedule.freeze or total
    if policy.budget_ramp != "constant" and policy.drop_fraction_final == 0:
        last = schedule.progress.end
    assert last // every >= 20
