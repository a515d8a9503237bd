"""Tokens as a part of a policy: chosen under the budget, cooled, reported, saved."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.errors import BudgetError, MaskError, PolicyError
from sparsefx.passes import ShrinkUnits
from sparsefx.passes.tokens.token_scorer import scorers
from sparsefx.tracing.capture import Capture
from sparsefx.training import build_tokens
from sparsefx.training.build_tokens import largest
from sparsefx.training.whole_graph import whole_graph
from tests.unit_networks import Block, FusedAttention, Gelu, Vit

WIDTH, HIDDEN, TOKENS, BATCH, DEPTH = 8, 12, 17, 2, 2


def tall() -> nn.Module:
    """Sixteen patches and a class token, two blocks."""
    torch.manual_seed(0)
    blocks = (
        Block(WIDTH, FusedAttention(WIDTH, 2), Gelu(WIDTH, HIDDEN))
        for _ in range(DEPTH)
    )
    model = Vit(*blocks, width=WIDTH)
    model.position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
    return model


def pictures(batch: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, 2, 16, 16, generator=generator)


def macs(kept: dict[int, int], *, dense: bool = False) -> int:
    """By hand: tokens without the class token that stay from each block on."""
    total, tokens = BATCH * (TOKENS - 1) * WIDTH * 32 + BATCH * WIDTH * 3, TOKENS
    for index in range(DEPTH):
        if index in kept and not dense:
            total += BATCH * tokens * WIDTH  # the scorer
            tokens = kept[index] + 1
        block = 4 * WIDTH**2 + 2 * WIDTH * HIDDEN
        total += BATCH * (tokens * block + 2 * tokens**2 * WIDTH)
    return total


def sparse_of(policy: str, **options: object) -> nn.Module:
    torch.manual_seed(1)
    return sparsefx.transform(
        tall(), policy, example_inputs=(pictures(),), total_steps=6, **options
    )


@pytest.fixture(scope="module")
def recorded() -> Capture:
    return whole_graph(tall(), (pictures(),))


def reuse(recorded: Capture, patch: pytest.MonkeyPatch) -> None:
    """Recording takes most of the time, and is the same in every test."""
    patch.setattr(build_tokens, "whole_graph", lambda *_: recorded)


@pytest.fixture
def quick(recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    reuse(recorded, monkeypatch)


@pytest.fixture(scope="module")
def tokens_only(recorded) -> nn.Module:
    with pytest.MonkeyPatch.context() as patch:
        reuse(recorded, patch)
        options = {"before": [0, 1]}
        return sparse_of("svite_tokens", budget={"macs": 0.7}, tokens=options)


@pytest.fixture(scope="module")
def joint(recorded) -> nn.Module:
    with pytest.MonkeyPatch.context() as patch:
        reuse(recorded, patch)
        return sparse_of("svite_joint", budget={"macs": 0.5}, tokens={"before": 1})


def train(model: nn.Module, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(steps):
        model(pictures()).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsefx.step(model)


def test_the_budget_chooses_the_most_tokens_that_fit(tokens_only: nn.Module) -> None:
    limit = 0.7 * macs({}, dense=True)

    def cost(count: int) -> int:
        second = int(count / 16 * count + 0.5)
        return macs({0: count, 1: max(second, 1)})

    best = max(count for count in range(1, 17) if cost(count) <= limit)
    first, second = (s.choice for s in scorers(tokens_only))
    assert (first.where, second.where) == ("before blocks.0", "before blocks.1")
    assert first.kept == best
    assert second.kept == int(best / 16 * best + 0.5)
    report = sparsefx.report(tokens_only)
    assert report.budgets["macs"].kept == cost(best)
    assert report.budgets["macs"].met
    assert report.budgets["macs"].limit == pytest.approx(limit)
    rows = [row for row in report.layers if row.granularity == "token"]
    assert [row.density for row in rows] == [best / 16, second.kept / best]
    assert rows[0].costs["macs"].dense == macs({}, dense=True)
    assert rows[1].costs["macs"].kept == cost(best)
    total = report.totals["macs"]
    assert total.original + total.fixed == macs({}, dense=True)


def test_tokens_cool_and_are_settled_in_eval(tokens_only: nn.Module) -> None:
    model = copy.deepcopy(tokens_only)
    assert [float(s.tau) for s in scorers(model)] == pytest.approx([10.0, 10.0])
    train(model, 3)
    assert [float(s.tau) for s in scorers(model)] == pytest.approx([5.05, 5.05])
    train(model, 3)
    assert [float(s.tau) for s in scorers(model)] == pytest.approx([0.1, 0.1])
    assert not torch.equal(model(pictures()), model(pictures()))
    model.eval()
    assert torch.equal(model(pictures(5)), model(pictures(5)))
    dense = sparsefx.finalize(model)
    torch.testing.assert_close(dense(pictures()), model(pictures()))
    twin = pickle.loads(pickle.dumps(dense))
    torch.testing.assert_close(twin(pictures()), dense(pictures()))
    with pytest.raises(MaskError, match="finalized"):
        sparsefx.step(model)


def test_temperatures_are_those_that_were_asked_for(quick: Any) -> None:
    model = sparse_of("svite_tokens", tokens={"tau": [4.0, 1.0]})
    (scorer,) = scorers(model)
    assert float(scorer.tau) == 4.0
    train(model, 4)
    assert float(scorer.tau) == 2.0
    train(model, 2)
    assert float(scorer.tau) == 1.0


def test_switched_off_all_tokens_stay(tokens_only: nn.Module) -> None:
    model = copy.deepcopy(tokens_only)
    for scorer in scorers(model):
        scorer.enabled = False
    assert torch.allclose(model(pictures()), tall()(pictures()), atol=1e-6)
    for scorer in scorers(model):
        scorer.enabled = True
    assert not torch.allclose(model(pictures()), tall()(pictures()), atol=1e-3)


def test_tokens_and_weights_share_a_budget(joint: nn.Module) -> None:
    model = copy.deepcopy(joint)
    (scorer,) = scorers(model)
    assert scorer.choice.kept < 16  # min_keep 0.1 of the given tokens, not 0.9
    report = sparsefx.report(model)
    budget = report.budgets["macs"]
    assert budget.limit == pytest.approx(0.5 * macs({}, dense=True))
    assert budget.limit * 0.98 <= budget.kept <= budget.limit
    total = report.totals["macs"]
    share, density = scorer.choice.kept / 16, total.kept / total.dense
    assert share <= density
    assert scorer.choice.macs == macs({1: scorer.choice.kept})
    assert total.dense + total.fixed == macs({1: scorer.choice.kept})
    assert "tokens_0.weight" not in sparsefx.masks(model)
    train(model, 6)
    assert sparsefx.report(model).budgets["macs"].met
    model.eval()
    dense = sparsefx.finalize(model)
    torch.testing.assert_close(dense(pictures()), model(pictures()))
    zeros = int((dense.get_parameter("blocks.0.mlp.fc1.weight") == 0).sum())
    assert zeros > 0


def test_bounds_hold_the_share_of_the_tokens(quick: Any) -> None:
    bounds = {"before": 0.5, "min_keep": 0.75, "max_keep": 0.8}
    policy = sparsefx.load_policy("svite_joint", tokens=bounds)
    short = build_tokens.shortened(tall(), policy, (pictures(),), inplace=False)
    (scorer,) = scorers(short.found.root)
    assert scorer.choice.where == "before blocks.1"
    assert scorer.choice.kept == 12
    assert short.policy.budget == {"macs": f"{0.5 * macs({}, dense=True)} MACs"}


def test_checkpoints_carry_tokens_on(joint: nn.Module, tmp_path: Path) -> None:
    model = copy.deepcopy(joint)
    train(model, 2)
    sparsefx.save(model, tmp_path / "model.safetensors")
    twin = sparsefx.load(copy.deepcopy(joint), tmp_path / "model.safetensors")
    assert float(scorers(twin)[0].tau) == float(scorers(model)[0].tau) < 10
    model.eval()
    twin.eval()
    assert torch.equal(twin(pictures()), model(pictures()))


@pytest.mark.slow
def test_tokens_and_units_share_a_budget() -> None:
    model = sparse_of(
        "svite_units",
        budget={"macs": 0.5},
        tokens={"before": 1, "keep": 0.75},
        update_every=2,
    )
    assert scorers(model)[0].choice.kept == 12
    train(model, 6)
    report = sparsefx.report(model)
    assert report.budgets["macs"].met
    assert report.budgets["macs"].limit == pytest.approx(0.5 * macs({}, dense=True))
    dense, x = sparsefx.finalize(model).eval(), pictures()
    small = ShrinkUnits()(sparsefx.capture(dense, (x,)).graphs[":eval"])
    torch.testing.assert_close(small(x), dense(x), rtol=1e-5, atol=1e-6)
    spent = sparsefx.costs(small, (x,)).totals()["macs"]["total"]
    assert spent == pytest.approx(report.budgets["macs"].kept)


@pytest.mark.slow
def test_what_was_chosen_is_lowered_and_compiled(joint: nn.Module) -> None:
    dense, x = sparsefx.finalize(copy.deepcopy(joint)).eval(), pictures()
    fast = sparsefx.lower(dense, example_inputs=(x,))
    torch.testing.assert_close(fast(x), dense(x), rtol=1e-4, atol=1e-5)
    compiled = torch.compile(dense, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), dense(x))


def test_models_without_tokens_are_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    x = (torch.ones(3, 4),)
    with pytest.raises(MaskError, match="no stack of equal blocks"):
        sparsefx.transform(net, "svite_tokens", example_inputs=x)
    with pytest.raises(MaskError, match="no module of this graph"):
        sparsefx.transform(
            net, "svite_tokens", example_inputs=x, tokens={"before": "2"}
        )
    with pytest.raises(MaskError, match="inplace"):
        sparsefx.transform(net, "svite_tokens", example_inputs=x, inplace=True)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"tokens": {"before": 2}}, MaskError, "has 2 blocks"),
        ({"tokens": {"before": [1, 0]}}, MaskError, "order"),
        ({"budget": {"macs": 0.1}}, BudgetError, "with 2 of 16 tokens"),
        ({"tokens": {"keep": 0.9}, "budget": 0.5}, BudgetError, "lower keep"),
        ({"budget": {"params": 0.5}}, PolicyError, "nothing of MACs"),
    ],
)
def test_what_cannot_be_met_is_refused(
    quick: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        sparse_of("svite_tokens", **options)


def test_tokens_and_a_rewrite_are_refused_together() -> None:
    with pytest.raises(PolicyError, match="use one"):
        sparse_of("svite_tokens", rewrite="sparse_wide")


@pytest.mark.parametrize("bound", range(0, 9))
def test_the_largest_that_fits(bound: int) -> None:
    found = largest(lambda n: n <= bound, 1, 7)
    assert found == (None if bound < 1 else min(bound, 7))


def test_blocks_are_counted_in_the_larger_of_two_stacks() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_large = nn.Sequential(*(nn.Linear(8, 8) for _ in range(2)))
            self.b_small = nn.Sequential(*(nn.LayerNorm(8) for _ in range(3)))

        def forward(self, x: Tensor) -> Tensor:
            return self.b_small(self.a_large(x)).sum(1)

    model, x = Two(), torch.randn(2, 5, 8)
    graph = whole_graph(model, (x,)).graphs[""]
    assert build_tokens._stack(model, graph) == ["a_large.0", "a_large.1"]
