"""accelerate prepares, saves and resumes a sparse model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsefx
from tests.integrations.small_training import (
    PRESETS,
    batches,
    differing,
    loss,
    met,
    sparse_mlp,
    state,
)

accelerate = pytest.importorskip("accelerate", reason="accelerate is missing")

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def prepared(policy: str = "cost_budget") -> tuple[Any, nn.Module, Any]:
    accelerator = accelerate.Accelerator(cpu=True)
    sparse = sparse_mlp(policy)
    optimizer = torch.optim.AdamW(sparse.parameters(), 1e-2)
    return (accelerator, *accelerator.prepare(sparse, optimizer))


def train(accelerator: Any, model: nn.Module, optimizer: Any) -> None:
    for batch in batches(8):
        optimizer.zero_grad()
        accelerator.backward(loss(model, batch))
        optimizer.step()
        sparsefx.step(model, optimizer=optimizer)


@pytest.mark.parametrize("policy", PRESETS)
def test_a_resumed_run_is_the_run(policy: str, tmp_path: Path) -> None:
    one = prepared(policy)
    train(*one)
    one[0].save_state(str(tmp_path))
    train(*one)
    two = prepared(policy)
    two[0].load_state(str(tmp_path))
    train(*two)
    assert differing(state(one[1]), state(two[1])) == []
    assert met(two[1])


def test_save_model_holds_the_masks(tmp_path: Path) -> None:
    accelerator, model, optimizer = prepared()
    train(accelerator, model, optimizer)
    accelerator.save_model(model, str(tmp_path))
    other = sparse_mlp()
    accelerate.load_checkpoint_in_model(other, str(tmp_path / "model.safetensors"))
    assert differing(state(model), state(other)) == []


def test_its_own_forward_survives_finalize() -> None:
    """accelerate keeps a forward on the instance; copies must not run the old one."""
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model = accelerator.prepare(sparse_mlp())
    train(accelerator, model, torch.optim.SGD(model.parameters(), 0.1))
    final = sparsefx.finalize(model)
    x = batches(8)[0][0]
    with torch.autocast("cpu", torch.bfloat16):
        wanted = model(x)
    torch.testing.assert_close(final(x).float(), wanted.float(), rtol=0.05, atol=0.05)
    unwrapped = accelerator.unwrap_model(model)
    assert sparsefx.report(unwrapped).to_dict() == sparsefx.report(model).to_dict()
