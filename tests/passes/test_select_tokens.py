"""Tokens are gathered, exactly k of them, and everything behind is shorter."""

import pytest
import torch
from torch import Tensor, fx, nn

import sparsefx
from sparsefx.errors import CaptureError, MaskError
from sparsefx.passes import SelectTokens, ShrinkUnits
from sparsefx.passes.annotate_costs import cost_table
from sparsefx.passes.graphs.standalone_graph import plain_graph
from sparsefx.passes.tokens.token_scorer import (
    TokenScorer,
    anneal,
    gumbel_soft,
    select_tokens,
)
from tests.unit_networks import Block, Gelu, SeparateAttention, Vit, images, vit

SCORES = torch.tensor([0.1, 2.0, -1.0, 1.5, 0.3])
NOISE = torch.tensor([0.0, -1.2, 2.8, 0.2, 0.1])


def test_e6_soft_choice() -> None:
    soft = gumbel_soft(SCORES, NOISE, 1.0)
    wanted = torch.tensor([0.0676, 0.1362, 0.3701, 0.3349, 0.0913])
    torch.testing.assert_close(soft, wanted, atol=1e-4, rtol=0)
    assert sorted(soft.topk(2).indices.tolist()) == [2, 3]
    cold = gumbel_soft(SCORES, NOISE, 0.1)
    wanted = torch.tensor([0, 0, 0.7310, 0.2689, 0])
    torch.testing.assert_close(cold, wanted, atol=1e-4, rtol=0)


def test_e6_straight_through_gradient() -> None:
    scores = SCORES.clone().requires_grad_()
    soft = gumbel_soft(scores, NOISE, 1.0)
    hard = torch.tensor([0.0, 0, 1, 1, 0])
    mask = hard + soft - soft.detach()
    assert torch.equal(mask.detach(), hard)
    (torch.arange(5.0) * mask).sum().backward()
    wanted = torch.tensor([-0.15186, -0.16965, -0.09106, 0.25249, 0.16008])
    torch.testing.assert_close(scores.grad, wanted, atol=1e-5, rtol=0)


def test_e6_without_noise_keeps_exactly_k_and_the_class_token() -> None:
    """The reference lets the class token compete, and keeps k or k + 1 tokens."""
    x = torch.arange(5.0).view(1, 5, 1)
    kept = select_tokens(x, SCORES.view(1, 5), torch.ones(()), False, True, 2, 1)
    assert kept.flatten().tolist() == [0.0, 1.0, 3.0]


def test_e7_zeroed_tokens_still_take_part() -> None:
    torch.manual_seed(1)
    block = Block(16, SeparateAttention(16, 4, 3), Gelu(16, 24))
    with torch.no_grad():
        block.attention.table.zero_()
        block.norm1.bias.normal_()
    x = torch.randn(2, 3, 16)
    zeroed = x * torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1)
    scores = torch.tensor([[0.0, 2.0, 1.0]]).expand(2, -1)
    gathered = select_tokens(x, scores, torch.ones(()), False, True, 1, 1)
    short = SeparateAttention(16, 4, 2)
    short.load_state_dict(
        {
            k: v
            for k, v in block.attention.state_dict().items()
            if k not in ("table", "place")
        },
        strict=False,
    )
    with torch.no_grad():
        short.table.zero_()
    full = block(zeroed)[:, 0]
    block.attention = short
    assert (block(gathered)[:, 0] - full).abs().max() > 1e-3


def selected(*places: tuple[str, float | int]) -> tuple[nn.Module, fx.GraphModule]:
    model = vit()
    graph = sparsefx.capture(model, (images(),)).graphs[""]
    for before, keep in places:
        SelectTokens(before, keep)(graph)
    own = plain_graph(graph.graph, graph, lambda name, value: value)
    return model, own


def by_hand(model: nn.Module, own: nn.Module, x: Tensor, counts: dict[int, int]):
    x = model.patches(x).flatten(2).transpose(1, 2)
    x = torch.cat([model.token.expand(x.shape[0], -1, -1), x], 1) + model.position
    for index, block in enumerate(model.blocks):
        if index in counts:
            number = sorted(counts).index(index)
            scorer = own.get_submodule(f"tokens_{number}")
            scores = (x @ scorer.weight.T + scorer.bias).squeeze(-1)[:, 1:]
            best = scores.topk(counts[index]).indices.sort().values
            rows = torch.arange(len(x))[:, None]
            x = torch.cat([x[:, :1], x[:, 1:][rows, best]], 1)
        x = block(x)
    return model.head(model.norm(x)[:, 0])


@pytest.mark.parametrize("counts", [{0: 3}, {1: 2}, {0: 3, 1: 1}])
def test_eval_gathers_the_best_anywhere_and_several_times(
    counts: dict[int, int],
) -> None:
    model, own = selected(*((f"blocks.{i}", k) for i, k in counts.items()))
    own.eval()
    for batch in (1, 5):
        x = images(batch)
        torch.testing.assert_close(own(x), by_hand(model, own, x, counts))
        assert torch.equal(own(x), own(x))


def test_training_draws_and_teaches_the_scorer() -> None:
    _, own = selected(("blocks.1", 2))
    x = images()
    assert not torch.equal(own(x), own(x))
    own(x).square().sum().backward()
    assert own.get_parameter("tokens_0.weight").grad.abs().max() > 0


def test_tokens_are_drawn_with_the_probabilities_of_their_scores() -> None:
    """The Gumbel-max law: the largest noisy score is a draw from the softmax."""
    chances, draws = torch.tensor([0.6, 0.25, 0.1, 0.05]), 20_000
    x = torch.arange(4.0).view(1, 4, 1).expand(draws, -1, -1)
    scores = chances.log().expand(draws, -1)
    kept = select_tokens(x, scores, torch.tensor(0.5), True, True, 1, prefix=0)
    found = torch.bincount(kept.flatten().long(), minlength=4) / draws
    spread = (chances * (1 - chances) / draws).sqrt()
    assert ((found - chances).abs() < 4 * spread).all()


def test_values_of_kept_tokens_do_not_change() -> None:
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    scores = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    kept = select_tokens(x, scores, torch.tensor(0.3), True, True, 3, 1)
    assert kept.shape == (2, 4, 4)
    for row, given in zip(kept, x, strict=True):
        assert all(any(torch.equal(a, b) for b in given) for a in row)


def test_the_switch_gives_the_whole_model_back() -> None:
    model, own = selected(("blocks.1", 2))
    own.tokens_0.enabled = False
    x = images()
    assert torch.equal(own(x), model(x))


def test_temperature_follows_the_progress() -> None:
    _, own = selected(("blocks.0", 2), ("blocks.1", 1))
    anneal(own, 1.0)
    assert [float(b) for n, b in own.named_buffers()] == pytest.approx([0.1, 0.1])
    scorer = TokenScorer(4)
    anneal(scorer, 0.25, first=8.0, last=0.0)
    assert float(scorer.tau) == 6.0


def test_costs_count_the_shorter_sequence() -> None:
    model = vit()
    found = sparsefx.capture(model, (images(),))
    dense = cost_table(model, found.priced).totals()["macs"]["total"]
    graph = found.graphs[""]
    SelectTokens("blocks.1", 2)(graph)
    short = cost_table(model, {"": graph}).totals()["macs"]["total"]
    batch, width, hidden, tokens, kept = 3, 16, 24, 5, 3
    per_token = 4 * width * width + 2 * width * hidden
    scorer = batch * tokens * width
    products = 2 * width * (tokens**2 - kept**2)
    assert dense - short == batch * (per_token * (tokens - kept) + products) - scorer


@pytest.mark.slow
def test_units_and_tokens_together() -> None:
    _, own = selected(("blocks.1", 2))
    x = images()
    sparse = sparsefx.transform(
        own,
        "svite_units",
        example_inputs=(x,),
        budget=0.7,
        total_steps=6,
        update_every=1,
    )
    optimizer = torch.optim.AdamW(sparse.parameters(), 1e-3)
    for step in range(6):
        anneal(sparse, step / 5)
        optimizer.zero_grad()
        sparse(x).square().sum().backward()
        optimizer.step()
        sparsefx.step(sparse)
    assert sparsefx.report(sparse).budgets["macs"].met
    dense = sparsefx.finalize(sparse).eval()
    small = ShrinkUnits()(sparsefx.capture(dense, (x,)).graphs[":eval"])
    torch.testing.assert_close(small(x), dense(x), rtol=1e-5, atol=1e-6)
    assert small.get_parameter("blocks.0.mlp.fc1.weight").shape[0] < 24


def test_what_cannot_be_shortened_is_refused() -> None:
    model = Vit(Block(16, SeparateAttention(16, 4, 5), Gelu(16, 24)))
    graph = sparsefx.capture(model, (images(),)).graphs[""]
    with pytest.raises(CaptureError, match="tokens cannot be selected"):
        SelectTokens("blocks.0", 2)(graph)
    for keep in (0, 9, True):
        with pytest.raises(MaskError, match="from 1 to 4"):
            SelectTokens("blocks.0", keep)(
                sparsefx.capture(vit(), (images(),)).graphs[""]
            )
    with pytest.raises(MaskError, match="nowhere"):
        SelectTokens("nowhere", 2)(sparsefx.capture(vit(), (images(),)).graphs[""])


def test_plain_graphs_compile_whole() -> None:
    _, own = selected(("blocks.1", 2))
    own.eval()
    compiled = torch.compile(own, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()), own(images()))
