"""A learner and a policy of one's own, outside the package, by the public contract."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx
from sparsefx import Learner, Site
from sparsefx.errors import MaskError, PolicyError
from sparsefx.learners import LEARNERS, Decision, Situation
from sparsefx.learners.choose_entries import affordable
from sparsefx.policies import ALLOCATIONS
from sparsefx.policies.policy_function import Context
from tests import models
from tests.unit_networks import images, vit

ROOT = Path(__file__).parents[1]
X = torch.linspace(-1, 1, 6 * 8).reshape(6, 8).sin()
Y = torch.linspace(-1, 1, 6 * 4).reshape(6, 4).cos()
TOTAL = 12


def by_saliency(situation: Situation) -> Decision:
    """The largest ``|w g|``, or ``|w|`` where no gradient was seen."""
    if not situation.scores:
        return Decision(affordable(situation))
    pairs = zip(situation.values, situation.scores, strict=True)
    values = [w if g is None else w.abs() * (1e-3 + g) for w, g in pairs]
    return Decision(affordable(replace(situation, values=values)))


SALIENCY = Learner(name="saliency", decide=by_saliency, scores=True, zeroes=False)


def first_ones(situation: Situation) -> Decision:
    """As many units as are paid for, the first ones."""
    masks, left = [], situation.budget
    rows = zip(situation.values, situation.prices, situation.limits, strict=True)
    least = situation.cost([low for low, _ in situation.limits])
    for value, price, (low, high) in rows:
        more = min(int((left - least) / price), high - low) if price else high - low
        masks.append(torch.arange(len(value)) < low + more)
        left -= more * price
    return Decision(masks, gates=[0.5 * mask.float() for mask in masks])


FIRST_UNITS = Learner(name="first_units", decide=first_ones, part="units")


@dataclass(frozen=True, slots=True)
class Needed:
    """Densities in proportion to how much the loss moves with a site's scale."""

    needs: Mapping[str, float] | None = None

    def prepare(
        self, model: nn.Module, sites: Sequence[Site], context: Context
    ) -> "Needed":
        assert context.loss is not None
        total = torch.zeros(())
        for x, y in context.calibration:
            total = total + context.loss(model(x), y)
        weights = [site.weight for site in sites if site.weight is not None]
        grads = torch.autograd.grad(total, weights)
        rows = zip(sites, weights, grads, strict=True)
        return Needed({s.name: float((w * g).detach().abs().sum()) for s, w, g in rows})

    def __call__(
        self, sites: Sequence[Site], budget: float, cost: str
    ) -> dict[str, float]:
        assert self.needs is not None
        dense = [site.cost(cost) * site.numel for site in sites]
        needs = [self.needs[site.name] for site in sites]
        unit = budget / sum(d * n for d, n in zip(dense, needs, strict=True))
        return {
            s.name: min(unit * n, s.max_density)
            for s, n in zip(sites, needs, strict=True)
        }


def sparse_of(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    known: dict[str, Any] = {"calibration": [(X, Y)], "loss": F.mse_loss}
    settings: dict[str, Any] = {"budget": {"macs": 0.3}, "total_steps": TOTAL}
    settings |= {"learner": SALIENCY, "update_every": 2, "example_inputs": (X,)}
    return sparsefx.transform(models.mlp(), Needed(), **known, **settings | options)


def train(sparse: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(sparse(X), Y).backward()
        optimizer.step()
        report = sparsefx.step(sparse)
        assert report.hard_cost <= report.budget * (1 + 1e-12)


def test_both_train_report_finalize(tmp_path: Path) -> None:
    sparse = sparse_of()
    optimizer = torch.optim.SGD(sparse.parameters(), 0.1)
    train(sparse, optimizer, 5)
    before = sparsefx.masks(sparse)
    twin = sparse_of()
    sparsefx.save(sparse, tmp_path / "a.safetensors")
    sparsefx.load(twin, tmp_path / "a.safetensors")
    for model in (sparse, twin, copy.deepcopy(twin)):
        train(model, torch.optim.SGD(model.parameters(), 0.1), TOTAL - 5)
        report = sparsefx.report(model)
        assert report.budgets["macs"].met
        assert report.policy == "Needed"
        masks, dense = sparsefx.masks(model), sparsefx.finalize(model)
        for layer in report.layers:
            weight = dense.get_parameter(layer.name)
            assert torch.equal(weight != 0, masks[layer.name])
            assert layer.density == pytest.approx(float((weight != 0).float().mean()))
    assert any(not torch.equal(before[n], m) for n, m in masks.items())
    for name, value in sparsefx.finalize(sparse_copy(sparse)).state_dict().items():
        assert torch.equal(value, dense.state_dict()[name])


def sparse_copy(sparse: nn.Module) -> nn.Module:
    """A twin of a finalized model that has not been finalized itself."""
    twin = sparse_of()
    twin.load_state_dict(sparse.state_dict())
    return twin


def test_the_policy_decides_alone_too() -> None:
    sites = sparsefx.sites(sparse_of())
    needs = {site.name: 1.0 + index for index, site in enumerate(sites)}
    found = sparsefx.allocate(sites, 0.2, policy=Needed(needs)).densities
    first, second = (found[site.name] for site in sites)
    assert second == pytest.approx(2 * first)


def test_a_learner_of_units() -> None:
    x = images(4)
    sparse = sparsefx.transform(
        vit(), learner=FIRST_UNITS, budget=0.5, example_inputs=(x,), total_steps=4
    )
    for _ in range(4):
        info = sparsefx.step(sparse)
        assert info.hard_cost <= info.budget
        assert info.kept_mask_mean == pytest.approx(0.5)
    for mask in sparsefx.masks(sparse).values():
        assert torch.equal(mask, torch.arange(len(mask)) < mask.sum())
    assert sparsefx.report(sparse).budgets["macs"].met


def answers(found: Any) -> Learner:
    return Learner(name="wrong", decide=lambda situation: found)


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        (answers(3), "wrong answers int; return a sparsefx.learners.Decision"),
        (answers(Decision([])), "wrong answers masks that are not one flat bool"),
        (answers(Decision([torch.ones(8, 16), torch.ones(2)])), "not one flat bool"),
        (
            Learner(
                name="greedy",
                decide=lambda s: Decision([v == v for v in s.values]),
            ),
            r"greedy keeps what costs 1152, but the budget allows 345\.6; keep less",
        ),
    ],
)
def test_a_learner_that_answers_nonsense(learner: Learner, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        sparse_of(learner=learner, budget_ramp="constant")


def test_what_no_learner_can_be() -> None:
    with pytest.raises(PolicyError, match="moves 'layers'; allowed: weights, units"):
        Learner(name="mine", part="layers")  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="of units has no decide"):
        Learner(name="mine", part="units")
    with pytest.raises(PolicyError, match="of tokens has a decide"):
        Learner(name="mine", part="tokens", decide=by_saliency)
    with pytest.raises(PolicyError, match="'betta' is not known; did you mean 'beta'"):
        sparsefx.Policy(learner=replace(SALIENCY, reads=frozenset({"betta"})))
    with pytest.raises(PolicyError, match="YAML cannot hold; allowed: soft_topk, "):
        sparsefx.Policy(learner=SALIENCY).to_yaml()


def test_settings_of_other_learners_warn() -> None:
    with pytest.warns(UserWarning, match="beta 3 has no effect with the learner sal"):
        sparsefx.Policy(learner=SALIENCY, beta=3.0)


def test_prepare_returns_a_policy_function() -> None:
    class Wrong:
        def __call__(self, sites: Sequence[Site], budget: float) -> dict[str, float]:
            return {}

        def prepare(self, *_: Any) -> Tensor:
            return torch.zeros(())

    with pytest.raises(PolicyError, match="prepare of Wrong answers Tensor; return"):
        sparsefx.transform(models.mlp(), Wrong(), example_inputs=(X,))


def test_each_member_has_its_file_its_line_its_preset_and_its_test() -> None:
    """The recipes of CONTRIBUTING.md, as far as they can be counted."""
    presets = [sparsefx.load_policy(name) for name in sparsefx.policies()]
    tests = "\n".join(p.read_text("utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    for name in ALLOCATIONS:
        assert (ROOT / "policies" / f"{name}.py").is_file()
        assert (ROOT / "policies" / f"{name}.yaml").is_file()
        assert name in {policy.allocation for policy in presets}
        assert re.search(rf"\b{name}\b", tests)
    # a mixture of members, not a preset of its own
    for name in LEARNERS.keys() - {"units_soft_topk"}:
        assert name in {policy.learner for policy in presets}
        assert re.search(rf"\b{name}\b", tests)
