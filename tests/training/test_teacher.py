"""A teacher's divergence is in the gradients, and nowhere else."""

import copy
import pickle
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sparsefx
from sparsefx.errors import MaskError, PolicyError
from sparsefx.training.teacher import Teacher
from tests import models
from tests.gradient_models import DYNAMO, X, Y, assert_close, gradients, sparse_of


def squares(x, y):
    return (x - y).square().sum(-1).mean() / 2


def softmax(x, y):
    return F.kl_div(
        x.log_softmax(-1), y.log_softmax(-1), reduction="batchmean", log_target=True
    )


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


class Kinds(nn.Module):
    """A net whose answer is of a kind."""

    def __init__(self, kind):
        super().__init__()
        self.net, self.kind = models.mlp(), kind

    def forward(self, x):
        out = self.net(x)
        return {
            "pair": lambda: (out, [out[:, :2].tanh() - 2]),
            "logits": lambda: OrderedDict(hidden=out.sin(), logits=out),
            "loss": lambda: Answer(out, out.square().mean()),
        }[self.kind]()


def used_of(kind, out):
    """The loss of a user, who may look at a part of the output."""
    if kind == "loss":
        return out.loss
    return F.mse_loss(out[0] if kind == "pair" else out["logits"], Y)


def far_of(kind, out, dense):
    if kind == "pair":
        return squares(out[0], dense[0]) + squares(out[1][0], dense[1][0])
    logits = [x["logits"] if kind == "logits" else x.logits for x in (out, dense)]
    return softmax(*logits)


@pytest.mark.parametrize(
    ("kind", "policy"),
    [("pair", "cost_budget"), ("logits", "rigl"), ("loss", "units"), ("loss", "rigl")],
)
def test_gradients_are_those_of_the_sum(kind, policy) -> None:
    torch.manual_seed(5)
    dense, net = Kinds(kind), Kinds(kind)
    options = {"policy": policy, "budget": 0.6} | (
        {} if policy == "cost_budget" else {"beta": 10.0}
    )
    taught, plain = (
        sparse_of(copy.deepcopy(net), **options, **more)
        for more in ({"teacher": Teacher(dense, weight=0.7)}, {})
    )
    found = used_of(kind, taught(X)) / (0.5 if kind == "loss" else 1.0)
    found.backward()
    out = plain(X)
    wanted = used_of(kind, out) + 0.7 * far_of(kind, out, dense(X))
    wanted = wanted / (0.5 if kind == "loss" else 1.0)  # whatever the loss is scaled by
    wanted.backward()
    assert_close(gradients(taught), gradients(plain))
    if kind == "loss":
        torch.testing.assert_close(found, wanted)


def test_gradients_are_finite_differences() -> None:
    torch.manual_seed(5)
    dense, x = models.mlp().double(), X.double()
    sparse = sparse_of(
        models.mlp().double(), inputs=(x,), policy="fixed", beta=10.0, teacher=dense
    )
    (sparse(x).sum() * 0).backward()  # without labels
    weight = sparse[0].get_parameter("weight")
    mask = sparsefx.masks(sparse)["0.weight"]
    place = tuple(mask.nonzero()[0].tolist())

    @torch.no_grad()
    def total():
        return float(squares(sparse(x), dense(x)))

    ends = []
    for move in (1e-5, -2e-5):
        with torch.no_grad():
            weight[place] += move
        ends.append(total())
    slope = (ends[0] - ends[1]) / 2e-5
    assert float(weight.grad[place]) == pytest.approx(slope, rel=1e-6)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.calls = models.mlp(), 0

    def forward(self, x):
        assert not self.training
        self.calls += 1
        return self.net(x)


def test_it_costs_nothing_outside_training_and_is_in_no_list() -> None:
    dense = Counting()
    sparse, plain = sparse_of(teacher=dense), sparse_of()
    assert sparse.state_dict().keys() == plain.state_dict().keys()
    assert len(list(sparse.modules())) == len(list(plain.modules()))
    assert len(list(sparse.parameters())) == len(list(plain.parameters()))
    with torch.no_grad():
        sparse(X)
    assert torch.equal(sparse.eval()(X), plain.eval()(X))
    assert dense.training  # as it was given
    twin = copy.deepcopy(sparse)
    out = sparsefx.finalize(sparse)
    again = pickle.loads(pickle.dumps(out))
    again.train()(X).sum().backward()
    (twin.train()(X).sum() * 0).backward()
    assert any(grad.any() for grad in gradients(twin))
    assert twin._forward_hooks is not sparse._forward_hooks


@pytest.mark.parametrize("inplace", [False, True])
def test_a_model_is_its_own_teacher_as_it_was(inplace) -> None:
    torch.manual_seed(0)
    net, data = models.mlp(), torch.randn(64, 8)
    before = copy.deepcopy(net)
    sparse = sparsefx.transform(
        net, "rigl", budget=0.5, example_inputs=(X,), teacher=net, inplace=inplace
    )
    first = squares(sparse(data), before(data))
    optimizer = torch.optim.Adam(sparse.parameters(), 0.01)
    for _ in range(40):
        (sparse(data).sum() * 0).backward()  # no labels: the teacher alone
        optimizer.step()
        optimizer.zero_grad()
        sparsefx.step(sparse, optimizer)
    assert squares(sparse(data), before(data)) < 0.3 * first


def test_padding_does_not_count() -> None:
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x, attention_mask):
            return self.fc(x)

    torch.manual_seed(0)
    dense, x = Tokens(), torch.randn(2, 3, 8)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    call = {"x": x, "attention_mask": mask}
    sparse = sparse_of(Tokens(), inputs=call, policy="fixed", beta=10.0, teacher=dense)
    out = sparse(**call)
    (0 * out.sum()).backward()
    off = (out - dense(**call)).detach()[mask.bool()]
    assert_close([sparse.fc.bias.grad], [off.sum(0) / 3])


def test_what_a_scaler_scales_is_scaled() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    dense = models.mlp()
    taught = sparse_of(teacher=Teacher(dense, scaler=scaler))
    plain = sparse_of(teacher=dense)
    scaler.scale(F.mse_loss(taught(X), Y)).backward()
    scaler.unscale_(torch.optim.SGD(taught.parameters(), 0.1))
    F.mse_loss(plain(X), Y).backward()
    assert_close(gradients(taught), gradients(plain))


def test_a_loss_of_ones_own() -> None:
    dense = models.mlp()
    one = Teacher(dense, loss=lambda out, wanted: (out - wanted).abs().sum())
    taught, plain = sparse_of(teacher=one), sparse_of()
    F.mse_loss(taught(X), Y).backward()
    out = plain(X)
    (F.mse_loss(out, Y) + (out - dense(X)).abs().sum()).backward()
    assert_close(gradients(taught), gradients(plain))


@DYNAMO
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch looks at outputs
def test_compiled_and_wrapped(tmp_path) -> None:
    dense = models.mlp()
    plain = sparse_of(teacher=dense)
    F.mse_loss(plain(X), Y).backward()
    sparse = sparse_of(teacher=dense)
    compiled = torch.compile(sparse, backend="aot_eager", fullgraph=True)
    F.mse_loss(compiled(X), Y).backward()
    assert_close(gradients(sparse), gradients(plain))
    sparse = sparse_of(teacher=dense)
    path = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=path, rank=0, world_size=1)
    try:
        F.mse_loss(DistributedDataParallel(sparse)(X), Y).backward()
    finally:
        dist.destroy_process_group()
    assert_close(gradients(sparse), gradients(plain))


def test_bad_teachers() -> None:
    net = models.mlp()
    with pytest.raises(MaskError, match="teacher is a str"):
        sparse_of(net, teacher="bert")
    with pytest.raises(MaskError, match=r"finalize"):
        sparse_of(net, teacher=sparse_of())
    for weight in (0, -1.0, float("nan"), float("inf"), True, "1"):
        with pytest.raises(PolicyError, match="weight of the teacher"):
            Teacher(net, weight=weight)
    sparse = sparse_of(net, teacher=models.mlp(out=3))
    with pytest.raises(MaskError, match=r"\[\(6, 4\)\], those of .* \[\(6, 3\)\]"):
        sparse(X)

    class Sign(nn.Sequential):
        def forward(self, x):
            return super().forward(x).argmax(-1)

    with pytest.raises(MaskError, match="no output"):
        sparse_of(Sign(nn.Linear(8, 4)), teacher=net)(X)
