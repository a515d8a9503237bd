"""The settings of sparse training: one frozen dataclass, to and from YAML."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import yaml

from sparsefx.errors import PolicyError
from sparsefx.learners import LEARNERS, learner_of
from sparsefx.learners.learner import Learner
from sparsefx.policies import ALLOCATIONS, function_of
from sparsefx.policies.magnitude_worths import NORMALIZATIONS
from sparsefx.policies.policy_function import PolicyFunction, by_weights
from sparsefx.policies.storage import STORAGES
from sparsefx.policies.unused_settings import REWRITES, unused
from sparsefx.settings import checks as check
from sparsefx.settings import token_options
from sparsefx.settings.granularity import Granularity
from sparsefx.settings.schedule import RAMP_SHAPES, Ramp, RampShape, Schedule, resolve


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
    allocation: str | PolicyFunction = "cost_budget"
    """Who decides how much where: a built-in name, or a function `(sites, budget)`."""
    cost: str = "macs"
    """The cost that a bare budget such as 0.1 speaks of, or 0.7*macs + 0.3*params."""
    budget: float | str | Mapping[str, float | str] = field(default=0.1, hash=False)
    """Allowed cost: fraction, percent or absolute; a mapping names the cost."""
    budget_of: Literal["maskable", "model"] = "maskable"
    """Whether costs that no mask can save (biases, norms ...) are in the budget."""
    initial_budget: float = 1.0
    """Where the budget's ramp starts: fraction of dense, in (0, 1]."""
    budget_ramp: RampShape = "cubic"
    """How the budget moves from begin_step to end_step; constant: target at once."""
    begin_step: int | float = 0.0
    """Position where the budget's ramp begins."""
    end_step: int | float = 0.5
    """Position where the budget reaches its target."""
    learner: str | Learner = "soft_topk"
    """How masks move: a name of `sparsefx.learners.LEARNERS`, or a `Learner`."""
    drop_fraction: float = 0.3
    """Share of the kept weights that set, rigl and granet move at the first update."""
    drop_fraction_final: float = 0.0
    """That share at the freeze, or at the end; in [0, 1]."""
    drop_ramp: RampShape = "cosine"
    """How the share moves from step 0 on."""
    dropped: Literal["zero", "hold"] = "zero"
    """What becomes of weights that magnitude drops; those that hold may return."""
    backward_density: float = 1.0
    """Share of the dense cost whose weights get gradients from dual_averaging."""
    optimizer_state: Literal["zero", "keep"] = "zero"
    """What becomes of the optimizer's state where masks move."""
    seed: int = 0
    """Of masks and growth that are random."""
    beta: float = 10.0
    """Final inverse temperature of the soft masks, above 0."""
    beta_initial: float = 1.0
    """Inverse temperature at step 0, above 0."""
    beta_ramp: RampShape = "linear"
    """How beta moves from step 0 to freeze_step; constant: final value at once."""
    freeze_step: int | float | None = 0.8
    """Position from which masks are frozen; None or 1.0 never freezes."""
    inclusive: bool = False
    """Keep also the entry that crosses the budget, and its ties: above the budget."""
    update_every: int = 1
    """Steps between two updates of the masks, at least 1."""
    normalize: Literal["layer", "global", "none"] = "layer"
    """What magnitudes are divided by before weights are compared."""
    granularity: str = "unstructured"
    """What is kept or dropped: unstructured, block:HxW, N:M, channel or kernel."""
    round_to: int = 1
    """Layers keep multiples of so many units, or all of them."""
    fallback: Literal["error", "dense"] = "error"
    """What happens to layers that cannot have their granularity."""
    include: tuple[str, ...] = ()
    """Patterns of the modules to mask; empty means all."""
    exclude: tuple[str, ...] = ()
    """Patterns of the modules that stay dense."""
    layers: Mapping[str, Mapping[str, float | str]] = field(
        default_factory=dict, hash=False
    )
    """By pattern: min_density, max_density, density, granularity, round_to."""
    densities: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Kept fractions by pattern, for the allocation layerwise."""
    storage: str = "values"
    """How bytes are counted: values, dense, csr, bitmask, 2:4 or bsr."""
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    """Costs of your own: by name, the cost of a kept weight by pattern."""
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Sizes that costs are counted at, such as batch; others are the example's."""
    min_density: float = 0.0
    """Least kept fraction of every site, in [0, 1]."""
    max_density: float = 1.0
    """Greatest kept fraction of every site, in [0, 1]."""
    unit_density: float = 1.0
    """Kept share of heads, neurons and channels; soft_topk masks the weights inside."""
    keep_units: bool = True
    """Let no layer die: at least as many weights as it has output units."""
    tokens: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Where tokens are dropped, and how many:
    `sparsefx.settings.token_options.TokenOptions`."""
    rewrite: str = "none"
    """Layers made larger and sparser at equal cost before anything is masked."""
    density: float = 0.5
    """Kept fraction of a rewrite's larger layers, in (0, 1]."""
    rewrite_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Other fields of the rewrite, such as activation, init, iso or select."""
    total_steps: int | None = None
    """Optimizer steps the schedule spans; None is at the target at once."""

    def __post_init__(self) -> None:
        if not callable(self.allocation):
            check.choice("allocation", self.allocation, tuple(ALLOCATIONS))
        check.choice("budget_ramp", self.budget_ramp, RAMP_SHAPES)
        check.choice("beta_ramp", self.beta_ramp, RAMP_SHAPES)
        if not isinstance(self.learner, Learner):
            check.choice("learner", self.learner, tuple(LEARNERS))
        check.choice("budget_of", self.budget_of, ("maskable", "model"))
        check.choice("drop_ramp", self.drop_ramp, RAMP_SHAPES)
        check.choice("dropped", self.dropped, ("zero", "hold"))
        check.choice("optimizer_state", self.optimizer_state, ("zero", "keep"))
        check.choice("normalize", self.normalize, NORMALIZATIONS)
        check.choice("storage", self.storage, STORAGES)
        check.choice("fallback", self.fallback, ("error", "dense"))
        check.choice("rewrite", self.rewrite, REWRITES)
        Granularity.parse(check.text("granularity", self.granularity))
        checked = {
            "name": check.text("name", self.name),
            "cost": check.text("cost", self.cost),
            "budget": check.budget("budget", self.budget),
            "initial_budget": check.positive("initial_budget", self.initial_budget, 1),
            "begin_step": check.position("begin_step", self.begin_step),
            "end_step": check.position("end_step", self.end_step),
            "beta": check.positive("beta", self.beta),
            "beta_initial": check.positive("beta_initial", self.beta_initial),
            "update_every": check.count("update_every", self.update_every),
            "round_to": check.count("round_to", self.round_to),
            "include": check.patterns("include", self.include),
            "exclude": check.patterns("exclude", self.exclude),
            "layers": check.layers("layers", self.layers),
            "costs": check.costs("costs", self.costs),
            "densities": check.densities("densities", self.densities),
            "sizes": check.sizes("sizes", self.sizes),
            "tokens": token_options.plain(self.tokens),
            "keep_units": check.flag("keep_units", self.keep_units),
            "inclusive": check.flag("inclusive", self.inclusive),
            "min_density": check.density("min_density", self.min_density),
            "max_density": check.density("max_density", self.max_density),
            "density": check.positive("density", self.density, 1),
            "unit_density": check.positive("unit_density", self.unit_density, 1),
            "drop_fraction": check.density("drop_fraction", self.drop_fraction),
            "drop_fraction_final": check.density(
                "drop_fraction_final", self.drop_fraction_final
            ),
            "backward_density": check.positive(
                "backward_density", self.backward_density, 1
            ),
            "seed": check.count("seed", self.seed, 0),
        }
        if self.freeze_step is not None:
            check.position("freeze_step", self.freeze_step)
        if self.total_steps is not None:
            check.count("total_steps", self.total_steps)
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.min_density > self.max_density:
            raise PolicyError(
                f"min_density {self.min_density:g} is above max_density "
                f"{self.max_density:g}; lower min_density or raise max_density"
            )
        learner, known = learner_of(self.learner), {f.name for f in fields(Policy)}
        for name in sorted(learner.reads - known):
            check.unknown(f"setting of the learner {learner.name}", name, sorted(known))
        if learner.part == "tokens" and not self.tokens:
            raise PolicyError(
                f"the learner {learner.name} needs to know where; set tokens: "
                "{before: 0}"
            )
        if learner.steady and self.budget_ramp != "constant":
            raise PolicyError(
                f"the learner {learner.name} is sparse from the start, so a "
                f"budget_ramp {self.budget_ramp!r} has no place; set budget_ramp: "
                "constant, or choose the learner granet or magnitude"
            )
        if self.unit_density < 1 and "unit_density" not in learner.reads:
            raise PolicyError(
                f"unit_density {self.unit_density:g} is for the learner soft_topk, "
                f"which masks weights inside units; this one is {learner.name}"
            )
        everywhere = by_weights(function_of(self.allocation))
        if self.inclusive and (self.keep_units or not everywhere):
            raise PolicyError(
                "inclusive draws one threshold through all layers; set allocation: "
                "cost_budget and keep_units: false, or inclusive: false"
            )
        self._check_order()
        self._warn_unused()

    def _check_order(self) -> None:
        if self.total_steps is not None:
            for name in ("begin_step", "end_step", "freeze_step"):
                value = getattr(self, name)
                if value is not None and resolve(value, self.total_steps) > (
                    self.total_steps
                ):
                    raise PolicyError(
                        f"{name} {value} lies beyond total_steps {self.total_steps}; "
                        f"lower {name} or raise total_steps"
                    )
            self.schedule()  # Refuses ramps and a freeze out of order.

    def _warn_unused(self) -> None:
        defaults = {f.name: f.default for f in fields(Policy)}
        for message in unused(fields_of(self), defaults):
            # The frames above: __post_init__, __init__, the caller.
            warnings.warn(message, UserWarning, stacklevel=4)

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
            return Schedule.constant(self.beta, self.update_every, share)
        position = self.freeze_step
        never = position is None or (isinstance(position, float) and position == 1)
        freeze = None if never or position is None else resolve(position, total)
        begin, end = resolve(self.begin_step, total), resolve(self.end_step, total)
        last = total if freeze is None else freeze
        return Schedule(
            Ramp(self.budget_ramp, 0.0, 1.0, begin, end),
            Ramp(self.beta_ramp, self.beta_initial, self.beta, 0, last),
            freeze=freeze,
            update_every=self.update_every,
            drop=Ramp(self.drop_ramp, share, self.drop_fraction_final, 0, last)
            if drops
            else None,
            last=total,
        )

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
