"""Other people's checkpoints hold a sparse model as it is."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    set_model_state_dict,
)

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

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend


def trained(policy: str) -> nn.Module:
    model = sparse_mlp(policy)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for batch in batches(8):
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
        sparsefx.step(model, optimizer=optimizer)
    return model


@pytest.mark.parametrize("policy", PRESETS)
def test_safetensors_of_a_model(policy: str, tmp_path: Path) -> None:
    from safetensors.torch import load_model, save_model

    model, other = trained(policy), sparse_mlp(policy)
    save_model(model, str(tmp_path / "model.safetensors"))
    load_model(other, str(tmp_path / "model.safetensors"))
    assert differing(state(model), state(other)) == []
    assert met(other)


@pytest.mark.parametrize("policy", PRESETS)
def test_distributed_checkpoints(policy: str, tmp_path: Path) -> None:
    model, other = trained(policy), sparse_mlp(policy)
    checkpoint.save(get_model_state_dict(model), checkpoint_id=str(tmp_path))
    found = get_model_state_dict(other)
    checkpoint.load(found, checkpoint_id=str(tmp_path))
    set_model_state_dict(other, found)
    assert differing(state(model), state(other)) == []
    assert met(other)


@pytest.mark.parametrize("policy", PRESETS)
def test_torch_save_reads_tensors_only(policy: str, tmp_path: Path) -> None:
    model, other = trained(policy), sparse_mlp(policy)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert differing(state(model), state(other)) == []
