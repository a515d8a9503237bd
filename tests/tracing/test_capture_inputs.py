"""What a recording is given: keywords, objects of tensors, other batch sizes."""

from typing import Any

import pytest
import torch
from torch import nn

from sparsefx.errors import CaptureError
from sparsefx.tracing.capture import capture
from tests import models
from tests.tracing.agreement import IMAGES, X, agree, program


def test_keyword_inputs_and_nested_outputs() -> None:
    parts = {"x": X, "y": 2 * X}
    kwargs = {"parts": parts, "scale": 2.0, "mask": torch.arange(4.0)}
    agree(models.ManyInputs(), (), kwargs, training=True)
    net = models.ManyInputs()
    found = program(net, kwargs)
    ran, out = found.run(net, (), kwargs)
    assert ran
    assert out["more"][1] == [4, "name", None]
    other = {**kwargs, "scale": 3.0}  # another constant, another structure
    assert not found.run(net, (), other)[0]
    assert not found.run(net, (parts,), {})[0]


class Answer:
    """No dataclass: an object with attributes."""

    def __init__(self, logits, note):
        self.logits, self.note = logits, note
        self.parts = {"rows": [logits[:1]]}
        if note is Answer:
            self.note = self  # a circle


class Answering(nn.Module):
    def __init__(self, note, kept=None):
        super().__init__()
        self.fc, self.kept = nn.Linear(6, 6), kept
        self.__dict__["note"] = note

    def forward(self, x):
        y = self.fc(x)
        return self.kept or {"answer": Answer(y, self.__dict__["note"])}


def test_objects_of_tensors_are_made_anew() -> None:
    net = Answering("a note")
    found = program(net)
    for x in (X, X[:3]):
        ran, out = found.run(net, (x,), {})
        assert ran
        answer, wanted = out["answer"], net(x)["answer"]
        assert type(answer) is Answer
        assert list(vars(answer)) == list(vars(wanted))
        assert answer.note == "a note"
        assert torch.equal(answer.logits, wanted.logits)
        assert torch.equal(answer.parts["rows"][0], wanted.logits[:1])


def test_objects_that_are_more_than_their_tensors_are_refused_by_name() -> None:
    for note, kept in ((lambda: 1, None), (Answer, None), ("", Answer(X, ""))):
        found = capture(Answering(note, kept), (X,))
        assert "returns a Answer" in found.reasons[""]
        assert set(found.programs) == {"fc"}


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_the_batch_is_free(batch: int) -> None:
    net = models.ConvNet().eval()
    found = program(net, (IMAGES[:1].repeat(batch, 1, 1, 1),))
    for size in (1, 2, 5):
        x = torch.randn(size, 1, 7, 7)
        ran, out = found.run(net, (x,), {})
        assert ran
        torch.testing.assert_close(out, net(x))
    assert not found.run(net, (torch.randn(2, 1, 9, 9),), {})[0]
    assert not found.run(net, (torch.randn(2, 1, 7, 7).double(),), {})[0]


def test_the_batch_is_fixed_where_python_reads_it() -> None:
    net = models.StaticBatch()
    found = program(net)
    assert found.batch is None
    assert found.run(net, (X,), {})[0]
    assert not found.run(net, (X[:3],), {})[0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.zeros(2, 7),), r"Sequential does not run on the example inputs"),
        ("text", r"example_inputs is a str; give a tuple"),
        ({"nothing": X}, r"does not run on the example inputs"),
    ],
)
def test_inputs_that_do_not_fit(inputs: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(models.mlp(6), inputs)


def test_without_inputs_each_layer_is_a_graph() -> None:
    found = capture(models.ConvNet())
    assert set(found.programs) == {"conv1", "conv2", "head"}


def test_costs_speak_of_the_batch_that_was_given() -> None:
    import sparsefx

    one = sparsefx.costs(models.mlp(), (torch.ones(1, 8),))
    four = sparsefx.costs(models.mlp(), (torch.ones(4, 8),))
    assert one.totals()["macs"]["total"] == 8 * 16 + 16 * 4
    assert four.totals()["macs"]["total"] == 4 * (8 * 16 + 16 * 4)
