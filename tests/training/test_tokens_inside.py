"""Tokens that are dropped inside attentions alone, each by a scorer of its own."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparsefx
from sparsefx.errors import BudgetError, MaskError, PolicyError
from sparsefx.passes.tokens.token_scorer import scorers
from tests.training.test_build_tokens import (
    BATCH,
    DEPTH,
    TOKENS,
    WIDTH,
    macs,
    pictures,
    sparse_of,
    tall,
    train,
)

INSIDE = {"before": "blocks.*.attention", "inside": True}


def cost(kept: int) -> int:
    """By hand: all of a dense model, but attentions of fewer tokens, and scorers."""
    whole, few = TOKENS, kept + 1
    saved = (whole - few) * 4 * WIDTH**2 + 2 * (whole**2 - few**2) * WIDTH
    return macs({}, dense=True) + DEPTH * BATCH * (whole * WIDTH - saved)


@pytest.fixture(scope="module")
def sparse() -> nn.Module:
    return sparse_of("svite_tokens", budget={"macs": 0.8}, tokens=INSIDE)


def by_hand(model: nn.Module, plain: nn.Module, x: Tensor) -> Tensor:
    x = plain.patches(x).flatten(2).transpose(1, 2)
    x = torch.cat([plain.token.expand(x.shape[0], -1, -1), x], 1) + plain.position
    rows = torch.arange(len(x))[:, None]
    for block, scorer in zip(plain.blocks, scorers(model), strict=True):
        y = block.norm1(x)
        scores = (y @ scorer.weight.T + scorer.bias).squeeze(-1)[:, 1:]
        best = scores.topk(scorer.choice.kept).indices + 1
        places = torch.cat([torch.zeros(len(x), 1, dtype=torch.int64), best], 1)
        around = x.clone()
        around[rows, places] += block.attention(y[rows, places])
        x = around + block.mlp(block.norm2(around))
    return plain.head(plain.norm(x)[:, 0])


def test_the_residual_path_keeps_what_attention_does_not_see(sparse: nn.Module) -> None:
    model, plain = copy.deepcopy(sparse).eval(), tall()
    for batch in (1, BATCH, 5):
        x = pictures(batch)
        torch.testing.assert_close(model(x), by_hand(model, plain, x))
    for scorer in scorers(model):
        scorer.enabled = False
    torch.testing.assert_close(model(x), plain(x))


def test_the_budget_and_the_report(sparse: nn.Module) -> None:
    first, second = (s.choice for s in scorers(sparse))
    assert (first.where, second.where) == (
        "inside blocks.0.attention",
        "inside blocks.1.attention",
    )
    assert first.kept == second.kept < TOKENS - 1
    assert second.macs == cost(first.kept)
    allowed = 0.8 * macs({}, dense=True)
    assert cost(first.kept) <= allowed < cost(first.kept + 1)
    assert "tokens_1 inside blocks.1.attention" in str(sparsefx.report(sparse))


def test_scorers_learn_and_all_goes_on_in_a_checkpoint(
    sparse: nn.Module, tmp_path: Path
) -> None:
    model, twin = copy.deepcopy(sparse), copy.deepcopy(sparse)
    before = [s.weight.detach().clone() for s in scorers(model)]
    train(model, 3)
    pairs = zip(before, scorers(model), strict=True)
    assert all(not torch.equal(old, s.weight) for old, s in pairs)
    sparsefx.save(model, tmp_path / "state")
    sparsefx.load(twin, tmp_path / "state")
    x = pictures()
    assert torch.equal(twin.eval()(x), model.eval()(x))
    dense = sparsefx.finalize(model)
    torch.testing.assert_close(dense(x), model(x))
    assert torch.equal(pickle.loads(pickle.dumps(dense))(x), dense(x))


def test_with_weights_under_one_budget() -> None:
    model = sparse_of("svite_joint", budget={"macs": 0.5}, tokens=INSIDE)
    report = sparsefx.report(model)
    budget = report.budgets["macs"]
    assert 0.97 * budget.limit <= budget.kept <= budget.limit
    train(model, 6)
    assert sparsefx.report(model).budgets["macs"].met
    dense = sparsefx.finalize(model.eval())
    torch.testing.assert_close(dense(pictures(3)), model(pictures(3)))


@pytest.mark.parametrize(
    ("tokens", "error", "says"),
    [
        ({"before": 1}, PolicyError, r"\[1\]; give paths or patterns"),
        ({"before": "blocks.*.missing"}, MaskError, r"missing' is no module"),
        ({"before": "blocks.1"}, MaskError, "is not added to tokens that go around"),
        (
            {"before": ["blocks.*.attention", "blocks.0.mlp"], "keep": [0.5, 0.5]},
            PolicyError,
            "has 2 amounts for 3 places",
        ),
        ({"keep": [0.5, 0.6]}, PolicyError, r"tokens\['keep'\]"),
        ({"keep": 0.9}, BudgetError, "lower keep"),
    ],
)
def test_what_has_no_meaning_is_refused(
    tokens: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        sparse_of("svite_tokens", budget={"macs": 0.7}, tokens={**INSIDE, **tokens})
