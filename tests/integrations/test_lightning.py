"""Lightning's Trainer trains, saves and resumes a module that holds a sparse model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sparsefx
from tests.integrations.small_training import (
    PRESETS,
    STEPS,
    data,
    differing,
    kept,
    loss,
    met,
    sparse_mlp,
    state,
)

lightning = pytest.importorskip("lightning.pytorch", reason="lightning is missing")

from sparsefx.integrations.lightning import SparseCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend

Batch = tuple[Tensor, Tensor]


class Module(lightning.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Batch, number: int) -> Tensor:
        return loss(self.net, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


def fitted(
    module: Any, folder: Path, ckpt_path: Path | None = None, **more: Any
) -> SparseCallback:
    """Two epochs of sixteen batches, four accumulated."""
    keep = lightning.callbacks.ModelCheckpoint(
        folder, "{step}", every_n_train_steps=2, save_top_k=-1
    )
    callback = SparseCallback()
    settings = {"max_steps": STEPS, "accumulate_grad_batches": 4, **more}
    trainer = lightning.Trainer(
        callbacks=[keep, callback],  # Lightning saves last, whatever stands first
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    loader = DataLoader(TensorDataset(*data()), batch_size=2)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return callback


@pytest.mark.parametrize("policy", PRESETS)
def test_a_resumed_run_is_the_run(policy: str, tmp_path: Path) -> None:
    module = Module(sparse_mlp(policy))
    callback = fitted(module, tmp_path)
    assert callback.steps.reports["net"].step == STEPS
    resumed = Module(sparse_mlp(policy))
    fitted(resumed, tmp_path / "more", tmp_path / f"step={STEPS // 2}.ckpt")
    assert differing(state(module), state(resumed)) == []
    assert met(resumed.net)


def test_checkpoints_hold_the_masks(tmp_path: Path) -> None:
    fitted(Module(sparse_mlp()), tmp_path)
    for step in (2, 6, 8):
        module = Module(sparse_mlp())
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=False)
        module.load_state_dict(saved["state_dict"])
        report = sparsefx.step(module.net)
        assert report.step == step + 1
        assert kept(module.net) <= report.budget


def test_optimizers_by_hand(tmp_path: Path) -> None:
    """Two optimizers; the masks follow the one that trains the sparse model."""

    class ByHand(Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__(net)
            self.critic = nn.Linear(12, 5)
            self.automatic_optimization = False

        def training_step(self, batch: Batch, number: int) -> None:
            mine, other = self.optimizers()
            for optimizer, net in ((mine, self.net), (other, self.critic)):
                if optimizer is mine and number % 2:
                    continue
                optimizer.zero_grad()
                self.manual_backward(loss(net, batch))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [
                torch.optim.SGD(m.parameters(), 0.1) for m in (self.net, self.critic)
            ]

    more = {"accumulate_grad_batches": 1, "max_steps": -1, "max_epochs": 1}
    callback = fitted(ByHand(sparse_mlp()), tmp_path, **more)
    assert callback.steps.reports["net"].step == 8


def test_a_dense_module_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sparsefx.MaskError, match="nothing in this Module is sparse"):
        fitted(Module(nn.Linear(12, 5)), tmp_path)


def test_a_failed_fit_leaves_no_hook(tmp_path: Path) -> None:
    class Fails(Module):
        def training_step(self, batch: Batch, number: int) -> Tensor:
            if number:
                raise RuntimeError("of the loop")
            return super().training_step(batch, number)

    module, callback = Fails(sparse_mlp()), None
    with pytest.raises(RuntimeError, match="of the loop"):
        callback = fitted(module, tmp_path, accumulate_grad_batches=1)
    assert callback is None
    module.optimizers().step()
    assert sparsefx.step(module.net).step == 2
