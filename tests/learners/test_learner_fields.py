"""What the fields of a learner say is what happens to a policy that names it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsefx
from sparsefx import Learner
from sparsefx.errors import PolicyError
from sparsefx.learners import LEARNERS, Decision, Situation
from sparsefx.learners.choose_entries import affordable, one_each
from sparsefx.masking.state_keys import CHILD
from sparsefx.passes.units.unit_scores import magnitudes
from tests.unit_networks import awake, images, vit

STORED = [name for name, one in LEARNERS.items() if one.part == "weights"]


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_a_ramp_is_refused_by_those_that_are_sparse_at_once(name: str) -> None:
    learner = LEARNERS[name]
    options = {"tokens": {"keep": 0.5}} if learner.part == "tokens" else {}
    sparsefx.load_policy({"learner": name, "budget_ramp": "constant", **options})
    if not learner.steady:
        return
    with pytest.raises(PolicyError, match=f"learner {name} is sparse from the start"):
        sparsefx.load_policy({"learner": name, "budget_ramp": "cubic", **options})


@pytest.mark.parametrize("name", STORED)
def test_first_masks_and_dropped_weights(name: str) -> None:
    """Drawn or by magnitude; zero, or as they were; at updates and between."""
    learner = LEARNERS[name]
    torch.manual_seed(0)
    x, net = torch.randn(4, 20), torch.nn.Linear(20, 10)
    sparse = sparsefx.transform(
        net, {"learner": name, "budget_ramp": "constant"}, example_inputs=(x,),
        budget={"params": 0.4}, total_steps=6,
    )  # fmt: skip
    mask, weight = sparsefx.masks(sparse)["weight"], net.weight.detach().abs()
    assert (weight[mask].min() < weight[~mask].max()) == learner.drawn
    optimizer = torch.optim.SGD(sparse.parameters(), 0.1)
    for _ in range(3):
        sparse(x).square().mean().backward()
        raw = dict(sparse.named_parameters())["weight"]
        dropped = ~sparsefx.masks(sparse)["weight"]
        if learner.stored:
            assert bool(raw.grad[dropped].any()) == learner.dense_gradients
        optimizer.step()
        optimizer.zero_grad()
        takes = "optimizer_state" in learner.reads
        sparsefx.step(sparse, optimizer if takes else None)
        if learner.stored:
            dropped = ~sparsefx.masks(sparse)["weight"]
            assert bool(raw[dropped].any()) != learner.zeroes


def test_heads_are_kept_by_first_order_and_grown_by_the_gradient() -> None:
    """S2ViTE: neurons are kept by magnitude, and grown by their first-order score."""
    seen: list[Situation] = []

    def spy(situation: Situation) -> Decision:
        seen.append(situation)
        return Decision(affordable(situation))

    learner = Learner(name="spy", decide=spy, part="units", scores=True)
    sparse = sparsefx.transform(
        awake(vit()),
        {"learner": learner, "budget_ramp": "constant"},
        example_inputs=(images(8),),
        budget=0.7,
        update_every=1,
        total_steps=9,
    )
    sparse(images(8)).square().mean().backward()
    part = sparse.get_submodule(CHILD).parts[0]
    scores = {n: dict(found) for n, found in part.state.scores().items()}
    weights = dict(sparse.named_parameters())
    wanted = {
        group.name: (scores[group.name]["taylor"], scores[group.name]["growth"])
        if group.kind == "heads"
        else (magnitudes(group, weights), scores[group.name]["taylor"])
        for group in part.groups
    }
    assert {group.kind for group in part.groups} >= {"heads", "neurons"}
    assert all(not torch.equal(*pair) for pair in wanted.values())
    sparsefx.step(sparse)
    rows = zip(seen[-1].names, seen[-1].values, seen[-1].scores, strict=True)
    for name, value, score in rows:
        torch.testing.assert_close(value, wanted[name][0].detach())
        torch.testing.assert_close(score, wanted[name][1])


COUNT = st.integers(0, 6)
LIMITS = st.one_of(COUNT.map(lambda n: (n, n)), st.tuples(COUNT, COUNT).map(sorted))
PRICE = st.sampled_from([0.0, 0.5, 1.0, 3.0])


@given(st.lists(st.tuples(LIMITS, PRICE), min_size=1, max_size=5), st.floats(0.5, 40))
def test_no_layer_vanishes_while_half_the_budget_pays(
    sites: list[tuple[tuple[int, int], float]], budget: float
) -> None:
    limits, prices = [tuple(limit) for limit, _ in sites], [p for _, p in sites]
    found = one_each(limits, prices, [9] * len(sites), budget)
    bare = [i for i, (low, _) in enumerate(limits) if low == 0]
    if sum(prices[i] for i in bare) > budget / 2:
        assert found == limits
        return

    def fixed_cost(rows: list[tuple[int, int]]) -> float:
        pairs = zip(rows, limits, prices, strict=True)
        return sum(p * now[0] for now, (low, high), p in pairs if low == high)

    assert fixed_cost(found) <= fixed_cost(limits)
    for i, ((low, high), (least, most)) in enumerate(zip(limits, found, strict=True)):
        if low < high:
            assert (least, most) == (max(low, 1), high)
        elif low:  # gives up as much as others need, never all
            assert 1 <= least == most <= low
        else:
            assert (least, most) in ((0, 0), (1, 1))
            if least == 0:  # the dearest that is left cannot pay for one here
                spare = [
                    (prices[j] * now[0], prices[j] * (now[0] - 1))
                    for j, now in enumerate(found)
                    if limits[j][0] == limits[j][1] > 0 and now[0] > 1 and prices[j]
                ]
                assert not spare or max(spare)[1] < prices[i] or prices[i] == 0
