"""The settings of sparse training: one frozen dataclass, to and from YAML."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import yaml

from sparsefx.errors import PolicyError
from sparsefx.learners import LEARNERS, learner_of
from sparsefx.learners.learner import Learner
from sparsefx.policies import ALLOCATIONS
from sparsefx.policies.combinations import refuse_contradictions, unused
from sparsefx.policies.magnitude_worths import Normalize
from sparsefx.policies.policy_function import PolicyFunction
from sparsefx.policies.storage import Storage
from sparsefx.settings.fields import (
    Unless,
    attributes_of,
    keep_rules,
    rule_of,
    settings_of,
)
from sparsefx.settings.kinds import (
    Amount,
    Count,
    Densities,
    Density,
    Fraction,
    Interval,
    Layers,
    Natural,
    Options,
    OwnCosts,
    Patterns,
    Position,
    Positive,
    Share,
    Sizes,
    Unit,
)
from sparsefx.settings.rules import choice
from sparsefx.settings.schedule import Ramp, RampShape, Schedule, resolve
from sparsefx.settings.token_options import TOKENS

Allots = Annotated[str | PolicyFunction, choice(ALLOCATIONS, callable)]
Moves = Annotated[str | Learner, choice(LEARNERS, lambda it: isinstance(it, Learner))]
Rewrite = Literal[
    "none", "sparse_wide", "sparse_parallel", "sparse_factorized", "sparse_doped"
]


_PUBLISHED = 100  # steps between updates in RigL's and GMP's code, of any run


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that decides how much is kept where and when.

    Positions (``begin_step``, ``end_step``, ``freeze_step``) are steps if they are
    ints, and fractions of ``total_steps`` if they are floats in [0, 1].

    Raises:
        PolicyError: a field has a value that is not allowed.

    Example:
        >>> policy = Policy(budget={"macs": "25%"}, beta=20, total_steps=1000)
        >>> policy.schedule().at(50).beta
        2.1875
    """

    name: str = "custom"
    """What reports call it."""
    allocation: Allots = "cost_budget"
    """Who decides how much where: a built-in name, or a function `(sites, budget)`."""
    cost: str = "macs"
    """The cost that a bare budget such as 0.1 speaks of, or `0.7*macs + 0.3*params`."""
    budget: Amount = field(default=0.1, hash=False)
    """Allowed cost: fraction, percent or absolute; a mapping names the cost."""
    budget_of: Literal["maskable", "model", "selected"] = "maskable"
    """What the budget is of: all that masks can save, also the rest (biases, norms), or
    the selected weights alone."""
    initial_budget: Annotated[Fraction, Unless("budget_ramp", "constant")] = 1.0
    """Where the budget's ramp starts: fraction of dense, in (0, 1]."""
    budget_ramp: RampShape = "cubic"
    """How the budget moves from begin_step to end_step; constant: target at once."""
    begin_step: Position = 0.0
    """Position where the budget's ramp begins."""
    end_step: Position = 0.5
    """Position where the budget reaches its target."""
    learner: Moves = "soft_topk"
    """How masks move: a name of `sparsefx.learners.LEARNERS`, or a `Learner`."""
    masks: Literal["learner", "nonzero"] = "learner"
    """Which weights may be kept: all, or those that are not zero at first, the largest
    within the budget; others stay zero. The budget is then 1.0 unless one is given."""
    drop_fraction: Share = 0.3
    """Share of the kept weights that set, rigl and granet move at the first update."""
    drop_fraction_final: Share = 0.0
    """That share at drop_end; in [0, 1]."""
    drop_ramp: RampShape = "cosine"
    """How the share moves from step 0 to drop_end."""
    drop_end: Position | None = None
    """Position where the share is final; None: where masks freeze, or the end."""
    regrow_dropped: bool = False
    """What an update drops may grow again in it, as it was."""
    growth_random: Share = 0.0
    """Share of what rigl and granet grow that is drawn at random."""
    growth_momentum: Share = 0.0
    """Of the gradients that rigl and granet grow by, what each step leaves to the next:
    0 is that of the update alone; above, dense gradients are made at every step."""
    dropped: Literal["zero", "hold"] = "zero"
    """What becomes of weights that magnitude drops; those that hold may return."""
    backward_density: Fraction = 1.0
    """Share of the dense cost whose weights get gradients from dual_averaging."""
    optimizer_state: Literal["zero", "keep"] = "zero"
    """What becomes of the optimizer's state where masks move."""
    execution: Literal["masked", "sparse"] = "masked"
    """How linear layers train: under masks, or, where that is faster, on kept weights
    alone, which then are all that model and optimizer store."""
    seed: Natural = 0
    """Of masks and growth that are random."""
    beta: Positive = 10.0
    """Final inverse temperature of the soft masks, above 0."""
    beta_initial: Annotated[Positive, Unless("beta_ramp", "constant")] = 1.0
    """Inverse temperature at step 0, above 0."""
    beta_ramp: RampShape = "linear"
    """How beta moves from step 0 to freeze_step; constant: final value at once."""
    freeze_step: Position | None = 0.8
    """Position from which masks are frozen; None or 1.0 never freezes."""
    soft_when_frozen: bool = False
    """Soft masks stay at the freeze; otherwise kept weights take them on."""
    inclusive: bool = False
    """Keep also the entry that crosses the budget, and its ties: above the budget."""
    update_every: Interval = 1
    """Steps between two updates of the masks (int of at least 1), or their share of
    total_steps (float in (0, 1)); a share is 100 steps where nobody says how many."""
    normalize: Normalize = "layer"
    """What magnitudes are divided by before weights are compared."""
    granularity: Unit = "unstructured"
    """What is kept or dropped: unstructured, block:HxW, N:M, channel or kernel."""
    round_to: Count = 1
    """Layers keep multiples of so many units, or all of them."""
    fallback: Literal["error", "dense"] = "error"
    """What happens to layers that cannot have their granularity."""
    include: Patterns = ()
    """Patterns of the modules to mask; empty means all."""
    exclude: Patterns = ()
    """Patterns of the modules that stay dense."""
    layers: Layers = field(default_factory=dict, hash=False)
    """By pattern: min_density, max_density, density, granularity, round_to."""
    densities: Densities = field(default_factory=dict, hash=False)
    """Kept fractions by pattern, for the allocation layerwise."""
    storage: Storage = "values"
    """How bytes are counted: values, dense, csr, bitmask, 2:4 or bsr."""
    costs: OwnCosts = field(default_factory=dict, hash=False)
    """Costs of your own: by name, the cost of a kept weight by pattern."""
    precision: Literal["exact", "bf16", "int8", "auto"] = "exact"
    """What `sparsefx.lower` will be asked for: budgets of milliseconds are measured in
    it, and their shares are of the dense model in it."""
    sizes: Sizes = field(default_factory=dict, hash=False)
    """Sizes that costs are counted at, such as batch; others are the example's."""
    min_density: Density = 0.0
    """Least kept fraction of every site, in [0, 1]."""
    max_density: Density = 1.0
    """Greatest kept fraction of every site, in [0, 1]."""
    unit_density: Fraction = 1.0
    """Kept share of heads, neurons and channels; soft_topk masks the weights inside."""
    keep_units: bool = True
    """Let no layer die: at least as many weights as it has output units."""
    tokens: Annotated[Mapping[str, Any], TOKENS] = field(
        default_factory=dict, hash=False
    )
    """Where tokens are dropped, and how many:
    `sparsefx.settings.token_options.TokenOptions`."""
    rewrite: Rewrite = "none"
    """Layers made larger and sparser at equal cost before anything is masked."""
    density: Annotated[Fraction, Unless("rewrite", "none")] = 0.5
    """Kept fraction of a rewrite's larger layers, in (0, 1]."""
    rewrite_options: Annotated[Options, Unless("rewrite", "none")] = field(
        default_factory=dict, hash=False
    )
    """Other fields of the rewrite, such as activation, init, iso or select."""
    total_steps: Count | None = None
    """Optimizer steps the schedule spans; None is at the target at once."""

    def __post_init__(self) -> None:
        keep_rules(self)
        known = settings_of(Policy)
        refuse_contradictions(self, known)
        for message in unused(self, known):
            # The frames above: __post_init__, __init__, the caller.
            warnings.warn(message, UserWarning, stacklevel=3)

    def schedule(self) -> Schedule:
        """When things happen, in steps.

        With ``total_steps=None`` the target holds at once and masks never freeze.

        Raises:
            PolicyError: positions are out of order.

        Example:
            >>> Policy(total_steps=1000, beta=20).schedule().at(1).beta
            1.02375
        """
        total = self.total_steps
        drops = "drop_fraction" in learner_of(self.learner).reads
        share = self.drop_fraction if drops else 0.0
        if total is None:
            return Schedule.constant(self.beta, self.interval(), share)
        position = self.freeze_step
        never = position is None or (isinstance(position, float) and position == 1)
        freeze = None if never or position is None else resolve(position, total)
        begin, end = resolve(self.begin_step, total), resolve(self.end_step, total)
        last = total if freeze is None else freeze
        settled = last if self.drop_end is None else resolve(self.drop_end, total)
        return Schedule(
            Ramp(self.budget_ramp, 0.0, 1.0, begin, end),
            Ramp(self.beta_ramp, self.beta_initial, self.beta, 0, last),
            freeze=freeze,
            update_every=self.interval(),
            drop=Ramp(self.drop_ramp, share, self.drop_fraction_final, 0, settled)
            if drops
            else None,
            last=total,
        )

    def interval(self) -> int:
        """Steps between two updates of the masks.

        Example:
            >>> Policy(update_every=0.01, total_steps=2000).interval()
            20
        """
        if isinstance(self.update_every, int):
            return self.update_every
        if self.total_steps is None:
            return _PUBLISHED
        return max(resolve(self.update_every, self.total_steps), 1)

    def to_yaml(self) -> str:
        """The policy as YAML text that `load_policy` reads back to an equal policy.

        Raises:
            PolicyError: ``allocation`` or ``learner`` is an object, not a name.

        Example:
            >>> Policy(beta=20).to_yaml().splitlines()[:2]
            ['name: custom', 'allocation: cost_budget']
        """
        for name, known in (("allocation", ALLOCATIONS), ("learner", LEARNERS)):
            if not isinstance(getattr(self, name), str):
                raise PolicyError(
                    f"the {name} of policy {self.name!r} is a Python object, which "
                    f"YAML cannot hold; allowed: {', '.join(known)}"
                )
        values = fields_of(self)
        values["include"], values["exclude"] = list(self.include), list(self.exclude)
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def fields_of(policy: Policy) -> dict[str, object]:
    """The values of a policy by field name.

    Example:
        >>> fields_of(Policy(beta=5.0))["beta"]
        5.0
    """
    return {f.name: getattr(policy, f.name) for f in fields(Policy)}


def policy_schema() -> dict[str, object]:
    """What a policy file may hold, as a JSON schema for editors.

    Example:
        >>> policy_schema()["properties"]["learner"]["default"]
        'soft_topk'
    """
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**head, "title": "sparsefx policy", **rule_of(Policy).schema}


Policy.__doc__ = f"{Policy.__doc__}{attributes_of(Policy)}"
