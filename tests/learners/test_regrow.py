"""GraNet, RigL and SET: worked example, exact counts, ties, schedules."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sparsefx
from sparsefx.learners import LEARNERS, magnitude, regrow
from sparsefx.learners.choose_entries import affordable, largest, one_each
from sparsefx.learners.learner import Situation
from sparsefx.policies.load_policy import load_policy

A = torch.tensor([[0.9, -0.2, 0.05, 0.6], [-0.4, 0.1, 0.3, -0.8]])
GA = torch.tensor([[0.1, 0.9, 0.2, 0.3], [0.05, 0.6, 0.4, 0.2]])
B = torch.tensor([[0.15, -0.7], [0.5, -0.25]])
GB = torch.tensor([[0.8, 0.1], [0.2, 0.7]])


def situation(values, masks, scores=(), **more):
    settings = {
        "names": [f"w{i}" for i in range(len(values))],
        "values": [v.reshape(-1) for v in values],
        "masks": None if masks is None else [m.reshape(-1) for m in masks],
        "scores": [s.reshape(-1) for s in scores],
        "prices": [1.0] * len(values),
        "worths": [1.0] * len(values),
        "limits": [(0, v.numel()) for v in values],
    }
    return Situation(**settings | more)


def test_the_twelve_weights() -> None:
    """The worked example: prune six of twelve, then half of each layer moves."""
    dense = [torch.ones_like(w, dtype=torch.bool) for w in (A, B)]
    pruned = affordable(
        situation([A, B], dense, budget=6.0), [m.flatten() for m in dense]
    )
    assert pruned[0].view(2, 4).int().tolist() == [[1, 0, 0, 1], [1, 0, 0, 1]]
    assert pruned[1].view(2, 2).int().tolist() == [[0, 1], [1, 0]]
    s = situation([A, B], dense, [GA, GB], budget=6.0, drop_fraction=0.5)
    found = regrow.by_gradient(s).masks
    assert found[0].view(2, 4).int().tolist() == [[1, 1, 0, 0], [0, 1, 0, 1]]
    assert found[1].view(2, 2).int().tolist() == [[1, 1], [0, 0]]


class Twelve(torch.nn.Module):
    """The two weights, with a loss whose gradients are those of the example."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 2, False), torch.nn.Linear(2, 2, False)
        self.a.weight.data, self.b.weight.data = A.clone(), B.clone()

    def forward(self, x):
        return self.a(x[:, :4]), self.b(x[:, 4:])


def test_what_is_pruned_and_grown_at_once_restarts_at_zero() -> None:
    x = torch.eye(6)
    sparse = sparsefx.transform(
        Twelve(),
        "granet",
        example_inputs=(x,),
        budget=0.5,
        total_steps=4,
        end_step=1,
        update_every=1,
        drop_ramp="constant",
        drop_fraction_final=0.5,
        min_density=0.0,
    )
    optimizer = torch.optim.SGD(sparse.parameters(), lr=0.0, momentum=0.9)
    a, b = sparse(x)
    ((a[:4].T * GA).sum() + (b[4:].T * GB).sum()).backward()
    optimizer.step()
    sparsefx.step(sparse, optimizer)
    weights = dict(sparse.named_parameters())
    a, b = weights["a.weight"], weights["b.weight"]
    assert torch.equal(a, torch.tensor([[0.9, 0, 0, 0], [0, 0, 0, -0.8]]))
    assert torch.equal(b, torch.tensor([[0, -0.7], [0, 0]]))
    for weight in (a, b):
        momentum = optimizer.state[weight]["momentum_buffer"]
        assert torch.equal(momentum != 0, weight != 0)


def test_granet_without_moves_is_gradual_pruning() -> None:
    dense = [torch.ones_like(w, dtype=torch.bool) for w in (A, B)]
    s = situation([A, B], dense, [GA, GB], budget=5.0)
    for one, other in zip(
        regrow.by_gradient(s).masks, magnitude.decide(s).masks, strict=True
    ):
        assert torch.equal(one, other)


def test_fewer_weights_than_zeros_never_make_the_network_dense() -> None:
    """A threshold of zero kept everything in the authors' code; candidates do not."""
    w = torch.tensor([3.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0])
    mask = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0]).bool()
    found = regrow.by_gradient(situation([w], [mask], budget=3.0)).masks[0]
    assert found.tolist() == [1, 1, 0, 0, 1, 0, 0, 0]


def test_a_prune_by_price_is_the_largest_prefix() -> None:
    """Under prices, what counts is magnitude per price; nothing is skipped."""
    s = situation(
        [torch.tensor([4.0, 3.0]), torch.tensor([2.0, 1.9, 0.1])],
        None,
        prices=[4.0, 1.0],
        budget=6.5,
    )
    # 2/1, 1.9/1, 4/4, then 3/4 does not fit: 0.1/1 is not bought in its place
    found = affordable(s)
    assert [m.int().tolist() for m in found] == [[1, 0], [1, 1, 0]]


@st.composite
def updates(draw):
    sizes = draw(st.lists(st.integers(2, 40), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def numbers(size):
        # few levels: many ties
        return torch.randint(0, 6, (size,), generator=generator) / 4.0

    masks = [torch.rand(n, generator=generator) < 0.6 for n in sizes]
    for mask in masks:
        mask[0] = True
    values = [numbers(n) * m for n, m in zip(sizes, masks, strict=True)]
    return situation(
        values,
        masks,
        [numbers(n) for n in sizes],
        prices=draw(
            st.lists(
                st.sampled_from([1.0, 3.0]), min_size=len(sizes), max_size=len(sizes)
            )
        ),
        budget=1e9,
        drop_fraction=draw(st.floats(0.01, 1.0)),
        seed=3,
    )


@given(updates(), st.sampled_from([regrow.by_gradient, regrow.by_chance]))
def test_moves_keep_counts_and_take_only_what_they_may(s: Any, decide: Any) -> None:
    found = decide(s).masks
    again = decide(s).masks
    for i, (old, new) in enumerate(zip(s.masks, found, strict=True)):
        assert int(new.sum()) == int(old.sum())
        assert torch.equal(new, again[i])
        k = min(math.ceil(s.drop_fraction * int(old.sum()) - 1e-9), int((~old).sum()))
        dropped, grown = old & ~new, new & ~old
        assert int(dropped.sum()) == int(grown.sum()) == k
        if not k:
            continue
        # lexicographic: among active the least, ties: the highest index goes first
        order = sorted(
            old.nonzero().flatten().tolist(),
            key=lambda j, i=i: (-float(s.values[i][j].abs()), j),
        )
        assert set(dropped.nonzero().flatten().tolist()) == set(order[len(order) - k :])
        if decide is regrow.by_gradient:
            order = sorted(
                (~old).nonzero().flatten().tolist(),
                key=lambda j, i=i: (-float(s.scores[i][j]), j),
            )
            assert set(grown.nonzero().flatten().tolist()) == set(order[:k])


@given(updates(), st.floats(0.1, 1.0))
def test_a_prune_never_exceeds_and_never_grows(s: Any, share: float) -> None:
    counts = [int(m.sum()) for m in s.masks]
    budget = share * s.cost(counts)
    pruned = affordable(s, s.masks, budget=budget)
    assert s.cost([int(m.sum()) for m in pruned]) <= budget * (1 + 1e-12)
    assert all((old | ~new).all() for old, new in zip(s.masks, pruned, strict=True))


def test_largest_of_nothing_and_of_all() -> None:
    assert largest(torch.zeros(0), 0, "w").tolist() == []
    assert largest(torch.zeros(3), 3, "w").all()
    assert largest(torch.tensor([1.0, 2.0]), 0, "w").tolist() == [False, False]


def test_no_layer_vanishes() -> None:
    assert one_each([(0, 9)], [1.0], [9], 1.0) == [(0, 9)]  # half the budget: 0.5
    assert one_each([(0, 9)], [1.0], [9], 2.0) == [(1, 9)]
    assert one_each([(0, 0), (6, 6)], [4.0, 1.0], [9, 9], 8.0) == [(1, 1), (2, 2)]
    assert one_each([(0, 0), (3, 3)], [4.0, 1.0], [9, 9], 8.0) == [(0, 0), (3, 3)]
    assert one_each([(0, 0), (2, 2)], [1.0, 1.0], [9, 9], 8.0) == [(1, 1), (1, 1)]


# -- schedules -------------------------------------------------------------------------

RAMP_HALF = [0.5, 0.6084, 0.6952, 0.7628, 0.8136, 0.85, 0.8744, 0.8892, 0.8968, 0.8996,
             0.9]  # fmt: skip
RAMP_ONE = [0, 0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991,
            0.9]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "wanted"), [("granet_sparse", RAMP_HALF), ("granet", RAMP_ONE)]
)
def test_the_cubic_ramp_reaches_its_end(name: str, wanted: list[Any]) -> None:
    policy = load_policy(name, total_steps=2000, update_every=100, budget=0.1)
    schedule = policy.schedule()
    for j, sparsity in enumerate(wanted):
        progress = schedule.at(100 * j).budget_progress
        first = policy.initial_budget
        density = first + (0.1 - first) * progress
        assert 1 - density == pytest.approx(sparsity, abs=1e-12)


def test_the_share_that_moves() -> None:
    schedule = load_policy("granet", total_steps=4000, update_every=100).schedule()
    found = [schedule.at(step).drop_fraction for step in (1000, 2000, 3000, 3900)]
    wanted = [0.42751, 0.2525, 0.07749]
    assert found[:3] == pytest.approx(wanted, abs=1e-5)
    assert schedule.at(1001).drop_fraction == 0
    assert schedule.at(0).drop_fraction == 0
    # what would grow at the last step could not be trained any more
    assert schedule.at(4000).drop_fraction == 0
    rigl = load_policy("rigl", total_steps=4000, update_every=100).schedule()
    assert rigl.at(1500).drop_fraction == pytest.approx(0.15)
    assert rigl.at(3000).drop_fraction == 0
    assert rigl.at(3100).drop_fraction == 0


def test_only_granet_ramps() -> None:
    growing = [one for one in LEARNERS.values() if "drop_fraction" in one.reads]
    assert [one.name for one in growing if not one.steady] == ["granet"]
