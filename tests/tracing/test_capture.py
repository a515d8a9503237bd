"""Any module to graphs that do what its own Python does, and leave it untouched."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sparsefx.tracing.capture import capture
from tests import models
from tests.tracing.agreement import IMAGES, X, agree, program

TOKENS = torch.linspace(-1, 1, 3 * 5 * 4).reshape(3, 5, 4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (lambda: models.mlp(6), X),
        (models.ConvNet, IMAGES),
        (models.FunctionalDropout, X),
        (models.WithDropPath, X),
        (models.WithLstm, TOKENS.repeat(1, 1, 2)[:, :, :6]),
        (models.Attention, TOKENS),
        (models.Shared, torch.arange(12).reshape(3, 4) % 10),
        (lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), X[:, None]),
        (lambda: parametrizations.weight_norm(nn.Linear(6, 3)), X),
    ],
    ids=[
        "mlp",
        "conv_bn",
        "functional_dropout",
        "drop_path",
        "lstm",
        "attention",
        "shared",
        "encoder_layer",
        "weight_norm",
    ],
)
def test_one_graph_for_both_modes(
    make: Callable[..., Any] | type[nn.Module], inputs: Tensor, training: bool
) -> None:
    agree(make(), (inputs,), training=training)


def test_modes_of_parts_are_followed_or_left_to_python() -> None:
    # batch norm follows its own flag; functional dropout that of its module
    norm = models.ConvNet()
    found = program(norm, (IMAGES,))
    norm.train()
    norm.norm.eval()
    ran, _ = found.run(norm, (IMAGES,), {})
    assert ran
    assert int(norm.norm.num_batches_tracked) == 0
    mixed = nn.Sequential(models.FunctionalDropout(), nn.Linear(6, 6))
    found = program(mixed)
    mixed.train()
    mixed[0].eval()
    assert found.run(mixed, (X,), {}) == (False, None)


def test_constants_that_differ_by_mode() -> None:
    class Modes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            scale, cut, dim = (0.5, 3, 1) if self.training else (2.0, 4, 0)
            return (self.fc(x) * scale)[:, :cut].sum(dim=dim)

    for training in (True, False):
        agree(Modes(), (X,), training=training)


def test_values_that_decide_make_it_hierarchical() -> None:
    found = capture(models.DataDependent(), (X,))
    assert set(found.programs) == {"a", "b"} - ({"b"} if X.sum() > 0 else set())
    assert "cannot run on symbolic inputs" in found.reasons[""]


def test_a_layer_never_called_has_a_reason() -> None:
    net = models.DataDependent()
    found = capture(net, (X.abs() + 1,))
    assert found.reasons["b"] == "the example inputs never call it"
    assert "b: Python, because the example inputs never call it" in str(found)


def test_written_attributes_are_refused_and_restored() -> None:
    net = models.Counting()
    before = net.seen
    found = capture(net, (X,))
    assert set(found.programs) == {"fc"}
    assert "forward writes calls, seen" in found.reasons[""]
    assert net.calls == 0
    assert net.seen is before
    assert float(before) == 0


def test_hooks_of_submodules_stay_python() -> None:
    for register, parts in (
        (lambda m: m.register_forward_hook(lambda *_: None), {"0", "2"}),
        (lambda m: m.register_forward_pre_hook(lambda *_: None), {"0", "2"}),
        # around the graph
        (lambda m: m.register_full_backward_hook(lambda *_: None), {"0", "2"}),
    ):
        net = models.mlp(6)
        handle = register(net[0])
        found = capture(net, (X,))
        assert "submodule '0' has hooks" in found.reasons[""]
        assert set(found.programs) == parts
        handle.remove()
        known = program(net)
        assert known.run(net, (X,), {})[0]
        handle = register(net[0])  # later: the graph steps aside
        assert known.run(net, (X,), {}) == (False, None)
        handle.remove()
        assert known.run(net, (X,), {})[0]


def test_a_replaced_submodule_is_seen() -> None:
    net = models.mlp(6)
    found = program(net)
    net[2] = nn.Linear(16, 7)
    assert found.run(net, (X,), {}) == (False, None)


def test_a_graph_holds_only_for_the_type_of_weights_it_saw() -> None:
    net = models.mlp(6)
    found = program(net)
    net.double()
    assert not found.run(net, (X,), {})[0]


@pytest.mark.parametrize(
    ("make", "reason", "parts"),
    [
        (models.HookedTensor, "registers a hook on a tensor", {"fc", "head"}),
        (models.Checkpointed, "activation checkpointing", {"block", "head"}),
    ],
)
def test_other_gradients_are_not_lost(
    make: type[nn.Module], reason: str, parts: Any
) -> None:
    found = capture(make(), (X,))
    assert reason in found.reasons[""]
    assert set(found.programs) == parts


def test_the_self_check_finds_a_graph_that_is_not_the_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # a backward that recording cannot see: a wrong spelling in its place
    import sparsefx.tracing.recorder as recorder

    spell = recorder.spell

    def wrong(func, name, *rest):
        target, op, args = spell(func, name, *rest)
        return (torch.sigmoid if name == "tanh" else target), op, args

    class Tanh(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(6, 6), nn.Tanh()

        def forward(self, x):
            return self.act(self.fc(x))

    monkeypatch.setattr(recorder, "spell", wrong)
    found = capture(Tanh(), (X,))
    assert "the recorded graph is not the module: outputs differ" in found.reasons[""]
    assert set(found.programs) == {"fc"}


def test_capturing_leaves_no_trace() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(models.ConvNet(), nn.Linear(5, 5), nn.Dropout(0.5))
    net.train()
    net[1].eval()
    flags = {name: m.training for name, m in net.named_modules()}
    state = {k: v.clone() for k, v in net.state_dict().items()}
    attributes = [set(vars(m)) for m in net.modules()]
    random = torch.get_rng_state()
    capture(net, (IMAGES,))
    assert torch.equal(random, torch.get_rng_state())
    assert flags == {name: m.training for name, m in net.named_modules()}
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert attributes == [set(vars(m)) for m in net.modules()]
    assert all(p.grad is None for p in net.parameters())


def test_a_notebook_shows_what_str_says() -> None:
    found = capture(nn.Linear(4, 2), (torch.ones(3, 4),))
    assert found._repr_html_() == f"<pre>{found}</pre>"
