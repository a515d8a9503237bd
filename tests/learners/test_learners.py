"""Laws that hold for every learner: budget, gradient, resuming, compiling, ranks."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.optim import SGD

import sparsefx
from tests import models
from tests.gradient_models import DYNAMO, Counter
from tests.learner_runs import (
    EVERY,
    GROWING,
    KEPT,
    TOTAL,
    X,
    Y,
    adam,
    backward,
    sparse_of,
    state_of,
    step,
    train,
)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(value.nan_to_num(), other[key].nan_to_num()), key


@pytest.mark.parametrize("name", [*KEPT, "spartan"])
def test_the_budget_holds_at_every_step_and_in_the_end(name: str) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3),
        torch.nn.Tanh(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 6 * 6, 4),
    )
    options = {"total_steps": TOTAL, "update_every": EVERY[name]}
    x = torch.randn(6, 1, 8, 8)
    sparse = sparsefx.transform(
        net, name, budget={"macs": 0.3}, example_inputs=(x,), **options
    )
    optimizer = adam(sparse)
    for _ in range(TOTAL):
        backward(sparse, x)
        report = step(sparse, optimizer)
        assert report.hard_cost <= report.budget * (1 + 1e-12)
        masks = sparsefx.masks(sparse)
        assert report.densities == {n: m.float().mean() for n, m in masks.items()}
        assert all(m.any() for m in masks.values())
    dear = max(site.cost("macs") for site in sparsefx.sites(sparse))
    assert report.budget - report.hard_cost < dear
    for name_, weight in sparsefx.finalize(sparse).named_parameters():
        if name_ in masks:
            assert not weight[~masks[name_]].any()


@pytest.mark.parametrize("name", KEPT)
def test_kept_entries_get_the_gradient_of_the_masked_loss(name: str) -> None:
    sparse = sparse_of(name).double()
    masks = sparsefx.masks(sparse)
    x, y = X.double(), Y.double()
    backward(sparse, x, y)
    dense = {
        n: (p.detach() * masks.get(n, 1)).requires_grad_()
        for n, p in sparse.named_parameters()
    }
    hidden = torch.tanh(F.linear(x, dense["0.weight"], dense["0.bias"]))
    F.mse_loss(F.linear(hidden, dense["2.weight"], dense["2.bias"]), y).backward()
    for key, parameter in sparse.named_parameters():
        expected = dense[key].grad
        if key in masks and name != "topkast":
            expected = expected * masks[key]
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", GROWING)
def test_gradients_are_dense_at_updates_only(name: str) -> None:
    """What autograd delivers before the callback; afterwards dropped entries have 0."""
    sparse = sparse_of(name)
    optimizer = adam(sparse)
    weight = dict(sparse.named_parameters())["0.weight"]
    delivered = []
    weight.register_hook(lambda grad: delivered.append(grad.clone()))
    state = sparse._sparsefx.weights
    for number in range(1, TOTAL):
        mask = sparsefx.masks(sparse)["0.weight"]
        backward(sparse)
        moves = sparse._sparsefx.plan.policy.schedule().at(number).drop_fraction > 0
        assert moves == (number % 4 == 0 and (number < 12 or name != "rigl"))
        assert bool(delivered[-1][~mask].any()) == (moves and not mask.all())
        assert bool(state.kept.scores) == moves
        assert not weight.grad[~mask].any()
        step(sparse, optimizer)
        assert not state.kept.scores


RESUMED = [
    pytest.param(name, marks=pytest.mark.slow if i % 3 else ())
    for i, name in enumerate([*KEPT, "spartan"])
]


@pytest.mark.parametrize("name", RESUMED)
def test_resuming_is_as_if_never_stopped(name: str, tmp_path: Path) -> None:
    whole = sparse_of(name)
    train(whole, adam(whole), TOTAL)
    for stop in (3, 4, 13):
        sparse = sparse_of(name)
        optimizer = adam(sparse)
        train(sparse, optimizer, stop)
        sparsefx.save(sparse, tmp_path / "a.safetensors")
        twin = sparsefx.load(sparse_of(name), tmp_path / "a.safetensors")
        other = adam(twin)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        train(twin, other, TOTAL - stop)
        assert_same(state_of(twin), state_of(whole))


@pytest.mark.parametrize("name", GROWING)
def test_a_checkpoint_between_backward_and_step_holds_the_scores(
    name: str, tmp_path: Path
) -> None:
    sparse = sparse_of(name)
    optimizer = SGD(sparse.parameters(), lr=0.1)
    train(sparse, optimizer, 3)
    backward(sparse)
    optimizer.step()
    torch.save(sparse.state_dict(), tmp_path / "state.pt")
    sparsefx.save(sparse, tmp_path / "state.safetensors")
    sparsefx.step(sparse, optimizer)
    twin, third = sparse_of(name), sparse_of(name)
    twin.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    sparsefx.load(third, tmp_path / "state.safetensors")
    for model in (twin, third):
        sparsefx.step(model, SGD(model.parameters(), lr=0.1))
        assert_same(state_of(model), state_of(sparse))


@pytest.mark.parametrize("name", GROWING)
def test_scores_add_up_over_accumulated_passes(name: str) -> None:
    found = []
    for parts in (1, 3):
        sparse = sparse_of(name).double()
        optimizer = SGD(sparse.parameters(), lr=0.1)
        for _ in range(4):
            for part in range(parts):
                rows = slice(6 // parts * part, 6 // parts * (part + 1))
                loss = F.mse_loss(sparse(X[rows].double()), Y[rows].double())
                (loss / parts).backward()
            optimizer.step()
            optimizer.zero_grad()
            sparsefx.step(sparse, optimizer)
        found.append(state_of(sparse))
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], equal_nan=True)


@pytest.mark.parametrize("name", KEPT)
def test_copies_and_dense_checkpoints(name: str) -> None:
    sparse = sparse_of(name)
    train(sparse, adam(sparse), 5)
    twin = copy.deepcopy(sparse)
    before = state_of(sparse)
    train(twin, adam(twin), 3)
    assert_same(before, state_of(sparse))
    dense = sparsefx.finalize(sparse)
    other = sparse_of(name)
    other.load_state_dict(dense.state_dict(), strict=False)
    for key, mask in sparsefx.masks(other).items():
        # masks are found from the weights: zeros go first
        kept = dense.get_parameter(key) != 0
        assert (mask | ~kept).all() or (kept | ~mask).all()


@DYNAMO
@pytest.mark.parametrize("name", ["rigl", "topkast"])
def test_compiled_once_and_equal(name: str) -> None:
    torch._dynamo.reset()
    counter = Counter()
    # no copies: those compile anew when they stop following their original
    eager, masked = (sparse_of(name, models.mlp()) for _ in range(2))
    compiled = torch.compile(masked, fullgraph=True, backend=counter)
    optimizers = [adam(eager), adam(masked)]
    for _ in range(TOTAL):
        for model, optimizer in zip((eager, compiled), optimizers, strict=True):
            backward(model)
            optimizer.step()
            optimizer.zero_grad()
            sparsefx.step(model, optimizer)
    for one, other in zip(eager.parameters(), masked.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert counter.compiled == 1
    torch._dynamo.reset()


RANKS = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import sparsefx
from tests.learner_runs import GROWING, TOTAL, X, Y, backward, sparse_of

rank, path = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
mine = slice(3 * rank, 3 * rank + 3)
for name in (*GROWING, "set", "gmp", "topkast"):
    sparse = sparse_of(name)
    model = DistributedDataParallel(sparse, gradient_as_bucket_view=name == "rigl")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number in range(TOTAL):
        if number % 4 == 3:  # an update step: the first part is not reduced
            with model.no_sync():
                backward(model, X[mine][:1], Y[mine][:1])
            backward(model, X[mine][1:], Y[mine][1:])
        else:
            backward(model, X[mine], Y[mine])
        optimizer.step()
        optimizer.zero_grad()
        sparsefx.step(model, optimizer)
    torch.save(sparse.state_dict(), f"{path}.{rank}.{name}")
dist.barrier()  # a rank that leaves early can abort the other's gloo threads
dist.destroy_process_group()
os._exit(0)
"""


def test_two_ranks_have_the_same_masks(tmp_path: Path) -> None:
    path = tmp_path / "store"
    command = [sys.executable, "-c", RANKS]
    ranks = [subprocess.Popen([*command, str(rank), str(path)]) for rank in (0, 1)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    for name in (*GROWING, "set", "gmp", "topkast"):
        one, other = (
            torch.load(f"{path}.{rank}.{name}", weights_only=True) for rank in (0, 1)
        )
        assert_same(one, other)
