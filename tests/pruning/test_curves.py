"""What layers are worth to the outputs, and the allocation that follows."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sparsefx
from sparsefx.pruning import measure_curves
from sparsefx.pruning.importance import importances
from sparsefx.training.divergence import divergence, probe
from tests.pruning import nets

LOGITS = torch.tensor([[0.3, -1.0, 0.7], [1.0, 0.0, -0.5]])
KINDS = {
    "squares": LOGITS,
    "each": torch.sigmoid(LOGITS),
    "rows": LOGITS.softmax(-1),
    "logits": {"logits": LOGITS, "hidden": 9 * LOGITS},
}


def tensor_of(out):
    return out["logits"] if isinstance(out, dict) else out


@pytest.mark.parametrize("kind", KINDS)
def test_probes_have_the_second_derivatives_for_covariance(kind) -> None:
    dense, generator = KINDS[kind], torch.Generator().manual_seed(0)
    point = tensor_of(dense).clone().requires_grad_()
    out = {**dense, "logits": point} if isinstance(dense, dict) else point
    drawn = []
    for _ in range(600):
        value = probe(out, None, generator)
        drawn.append(torch.autograd.grad(value, point)[0].flatten())
    rows = torch.stack(drawn)
    found = rows.T @ rows / len(rows)
    step, y = 1e-2, tensor_of(dense)
    for i in range(y.numel()):  # the diagonal by differences of the divergence
        moved = y.flatten().repeat(2, 1)
        moved[0, i] += step
        moved[1, i] -= step
        ends = [
            float(divergence({"logits": x} if kind == "logits" else x, dense))
            for x in moved.view(2, *y.shape)
        ]
        if kind in ("each", "rows"):  # moments of probabilities, not of all moves
            wanted = 1 / float(y.flatten()[i])
            wanted += 1 / (1 - float(y.flatten()[i])) if kind == "each" else 0.0
        else:
            wanted = sum(ends) / step**2
        assert float(found[i, i]) == pytest.approx(wanted, rel=0.25)


def test_divergences_are_those_of_their_kind() -> None:
    other = LOGITS + torch.tensor([[0.2, 0.0, -0.1], [0.0, 0.3, 0.1]])
    kl = F.kl_div(
        other.log_softmax(-1), LOGITS.log_softmax(-1), reduction="sum", log_target=True
    )
    pair = {"logits": other}, {"logits": LOGITS}
    assert float(divergence(*pair)) == pytest.approx(float(kl))
    rows = float(divergence(other.softmax(-1), LOGITS.softmax(-1)))
    assert rows == pytest.approx(float(kl), rel=1e-4)
    p, q = torch.sigmoid(LOGITS), torch.sigmoid(other)
    each = F.binary_cross_entropy(q, p, reduction="sum")
    each = each - F.binary_cross_entropy(p, p, reduction="sum")
    assert float(divergence(q, p)) == pytest.approx(float(each), rel=1e-3)
    assert divergence(LOGITS, LOGITS) == 0
    valid = torch.tensor([[True, False, True], [False, False, False]])
    assert float(divergence(other, LOGITS, valid)) == pytest.approx(0.025)


def test_importances_are_squared_slopes() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4, bias=False))
    calls = [((torch.randn(8, 6),), {}) for _ in range(300)]
    named = {"first": net[0].weight, "last": net[1].weight}
    found = importances(net, calls, [None] * len(calls), named, seed=0)
    rows = 8 * len(calls)
    wanted = net[1].weight.detach().square().sum(0) * rows
    assert torch.allclose(found["first"][0], wanted, rtol=0.15)
    assert torch.allclose(found["last"][0], torch.full((4,), float(rows)), rtol=0.15)


def test_importances_leave_the_model_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
    net[0].weight.requires_grad_(False)
    before = [p.requires_grad for p in net.parameters()]
    named = dict(net.named_parameters())
    found = importances(
        net, [((torch.randn(9, 3),), {})], [None], {"a": named["0.weight"]}, seed=0
    )
    assert found["a"].any()
    assert [p.requires_grad for p in net.parameters()] == before
    assert all(p.grad is None for p in net.parameters())


def test_some_outputs_stand_for_all(monkeypatch) -> None:
    net = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 6))
    data = nets.batches(10)
    curves = []
    for most in (1000, 16):
        monkeypatch.setattr(measure_curves, "_OUTPUTS", most)
        pruned = sparsefx.prune(net, data, budget=0.5, held_out=0)
        curves.append(pruned._again.settings["allocation"].found.points)
    for name in curves[0]:
        for (x, y), (at, some) in zip(curves[0][name], curves[1][name], strict=True):
            assert x == pytest.approx(at, abs=0.01)
            assert some == pytest.approx(y, rel=0.6, abs=0.01 * curves[0][name][0][1])


def test_importances_of_convolutions_and_padding() -> None:
    torch.manual_seed(0)
    net = nets.Convs().eval()
    named = dict(net.named_parameters())
    calls = [((x,), {}) for x in nets.images(60)]
    found = importances(
        net, calls, [None] * len(calls), {"depth": named["depth.weight"]}, seed=0
    )
    assert found["depth"].shape == (8, 1)
    tokens = nets.Tokens()
    calls = [((), batch) for batch in nets.sentences()]
    masks = [batch["attention_mask"].bool() for _, batch in calls]
    weights = {"down": tokens.down.weight}
    every = importances(tokens, calls, [None] * 4, weights, seed=0)
    valid = importances(tokens, calls, masks, weights, seed=0)
    assert torch.allclose(every["down"], valid["down"])  # padding has no slopes


def test_layers_that_matter_less_keep_less() -> None:
    net, few = nets.mlp(), torch.tensor([1.0] * 4 + [1e-3] * 8)
    pruned = sparsefx.prune(net, [x * few for x in nets.batches()], budget=0.5)
    shares = {name: float(m.float().mean()) for name, m in pruned.masks.items()}
    assert shares["0.weight"] < 0.4 < 0.6 < shares["2.weight"]


def test_curves_are_nearer_the_dense_model_than_even_densities() -> None:
    net, few = nets.mlp(), torch.tensor([1.0] * 4 + [1e-3] * 8)
    data = [x * few for x in nets.batches(20)]
    found = {
        name: sum(
            sparsefx.prune(
                net, data, budget=0.3, allocation=name, seed=seed
            ).report.held_out
            for seed in range(3)
        )
        for name in ("curves", "uniform")
    }
    assert found["curves"] < 0.9 * found["uniform"]


def test_curves_are_measured_once() -> None:
    pruned = sparsefx.prune(nets.mlp(), nets.batches(), budget=0.5)
    job = pruned._again
    curves = job.settings["allocation"].found
    points = curves.points["0.weight"]
    assert points[0][0] == 0.0
    assert points[-1] == (1.0, 0.0)
    rises = [rise for _, rise in points]
    assert rises == sorted(rises, reverse=True)
    assert pruned.at(0.2)._again.settings["allocation"].found is curves


def test_weights_without_inputs_are_tried_at_every_level() -> None:
    torch.manual_seed(0)
    net = nets.Tokens()
    with pytest.warns(UserWarning, match=r"rows with embed\.weight"):
        pruned = sparsefx.prune(net, nets.sentences(), budget={"params": 0.5})
    points = pruned._again.settings["allocation"].found.points["embed.weight"]
    assert points[0][1] > points[-2][1] > 0
    assert pruned.report.costs.budgets["params"].met
