"""What the recorder writes down, and what it refuses to."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sparsefx.errors import CaptureError
from sparsefx.tracing.capture import capture
from sparsefx.tracing.recorder import is_leaf, record
from tests import models


class Run(nn.Module):
    """A module whose forward is a function of the module and its input."""

    def __init__(self, run):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.bn = nn.BatchNorm1d(6)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def recorded(run, *args, **options):
    return record(Run(run), args or (torch.randn(4, 6),), {}, **options)


def ops(recording):
    return [(node.op, str(node.target)) for node in recording.graph.nodes]


def test_weights_are_edges_and_norms_are_modules() -> None:
    found = ops(recorded(lambda m, x: m.bn(m.fc(x))))
    assert [target for op, target in found if op == "get_attr"] == [
        "fc.weight",
        "fc.bias",
    ]
    assert [target for op, target in found if op == "call_module"] == ["bn"]


def test_the_batch_is_a_symbol_and_other_sizes_are_numbers() -> None:
    found = recorded(lambda m, x: x.reshape(x.shape[0] * x.shape[1]))
    assert found.symbol is not None
    assert ("call_method", "size") in ops(found)
    assert {s for n in found.graph.nodes for s in n.args if isinstance(s, int)} >= {6}


def test_relations_of_the_batch_become_guards() -> None:
    found = recorded(lambda m, x: x * 2 if x.shape[0] > 3 else x)
    assert len(found.guards) == 1
    (guard,) = found.guards
    assert [bool(guard.subs({found.symbol: size})) for size in (3, 4)] == [False, True]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda m, x: x if x.sum() > 0 else -x, "cannot run on symbolic inputs"),
        (lambda m, x: x * x.sum().item(), "cannot run on symbolic inputs"),
        (lambda m, x: x + torch.full((6,), 0.5).tolist()[0], "symbolic inputs"),
        (lambda m, x: x * int(x.shape[0]), "the batch size decides which code runs"),
        (lambda m, x: x * SECRET, "neither an input, a parameter, a buffer"),
        (lambda m, x: SimpleNamespace(x=x), "returns a SimpleNamespace"),
        (lambda m, x: ungraded(x), "switches gradients on or off by itself"),
        (lambda m, x: unbalanced(x), "switches gradients or autocast and not back"),
        (lambda m, x: hooked(m.fc(x)), "registers a hook on a tensor"),
        (lambda m, x: differentiated(m.fc(x)), "runs backward inside forward"),
        (lambda m, x: rebound(m.fc(x)), "sets an attribute of a tensor"),
    ],
)
def test_what_would_be_baked_in_is_refused(
    run: Callable[..., Any], reason: str
) -> None:
    with pytest.raises(CaptureError, match=reason):
        recorded(run)


SECRET = torch.ones(6)


def ungraded(x):
    torch._C._set_grad_enabled(False)
    y = x + 1
    torch._C._set_grad_enabled(True)
    return y


def unbalanced(x):
    torch.set_grad_enabled(False)
    return x + 1


def hooked(y):
    y.register_hook(lambda grad: grad)
    return y


def differentiated(y):
    return torch.autograd.grad(y.sum(), y)[0]


def rebound(y):
    y.data = y.data + 1
    return y


def test_an_input_that_is_no_constant_is_refused() -> None:
    with pytest.raises(CaptureError, match="an input is a SimpleNamespace"):
        recorded(lambda m, x, *rest: x, torch.ones(2, 6), SimpleNamespace(a=1))


def test_calls_that_answer_nothing_are_written_down() -> None:
    def run(m, x):
        y = m.fc(x)
        torch._foreach_add_([y], 1.0)
        y[:, 0] = 0.0
        return y

    targets = [target for _, target in ops(recorded(run))]
    assert any("_foreach_add_" in target for target in targets)
    assert any("setitem" in target for target in targets)


def test_scripted_children_are_refused_by_name() -> None:
    with pytest.warns(match=r"torch\.jit.* is deprecated"):
        scripted = torch.jit.script(nn.Linear(6, 6))
    net = nn.Sequential(nn.Linear(6, 6), scripted)
    with pytest.raises(CaptureError, match="submodule '1' is scripted"):
        capture(net, (torch.ones(2, 6),))


@pytest.mark.parametrize(
    ("module", "leaf"),
    [
        (nn.BatchNorm2d(3), True),
        (nn.Dropout(0.1), True),
        (models.DropPath(), True),
        (nn.LayerNorm(3), False),
        (nn.Linear(3, 3), False),
    ],
)
def test_leaves(module: Any, leaf: bool) -> None:
    assert is_leaf(module) is leaf


def test_module_calls_are_put_back_after_a_failure() -> None:
    before = nn.Module.__call__
    with pytest.raises(CaptureError):
        recorded(lambda m, x: x if x.sum() > 0 else -x)
    assert nn.Module.__call__ is before
