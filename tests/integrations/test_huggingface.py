"""Hugging Face's Trainer trains, saves, resumes and loads the best sparse model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsefx
from tests.integrations.small_training import (
    PRESETS,
    STEPS,
    differing,
    kept,
    met,
    state,
)

transformers = pytest.importorskip("transformers", reason="transformers is missing")
pytest.importorskip("accelerate", reason="accelerate is missing")

from sparsefx.integrations.huggingface import SparseCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend


def sparse_bert(policy: str = "cost_budget") -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=12,
    )
    model = transformers.BertForSequenceClassification(config)
    inputs = {"input_ids": torch.ones(2, 6, dtype=torch.long), "labels": torch.ones(2)}
    inputs["labels"] = inputs["labels"].long()
    return sparsefx.transform(
        model,
        policy,
        example_inputs=inputs,
        budget={"params": 0.3},
        total_steps=STEPS,
    )


def examples() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 40, (32, 6), generator=generator)
    return [{"input_ids": row, "labels": row[0] % 2} for row in ids]


def trained(
    model: nn.Module, folder: Path, resume: Path | None = None, **more: Any
) -> Any:
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": STEPS,
        "save_steps": STEPS // 2,
        "learning_rate": 1e-2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **more,
    }
    callback = SparseCallback()
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(str(folder), **settings),
        train_dataset=examples(),
        eval_dataset=examples()[:8],
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer, callback


@pytest.mark.parametrize("policy", PRESETS)
def test_a_resumed_run_is_the_run(policy: str, tmp_path: Path) -> None:
    model = sparse_bert(policy)
    _, callback = trained(model, tmp_path)
    (report,) = callback.steps.reports.values()
    assert report.step == STEPS  # batches are accumulated by twos
    resumed = sparse_bert(policy)
    trained(resumed, tmp_path / "more", tmp_path / f"checkpoint-{STEPS // 2}")
    assert differing(state(model), state(resumed)) == []
    assert met(resumed)


def test_checkpoints_hold_the_masks(tmp_path: Path) -> None:
    """Each is what it was after the masks had moved, within the budget."""
    model = sparse_bert()
    trained(model, tmp_path, save_steps=2)
    for step in (2, 6, 8):
        loaded = sparse_bert()
        path = tmp_path / f"checkpoint-{step}" / "model.safetensors"
        from safetensors.torch import load_file

        missing = loaded.load_state_dict(load_file(path), strict=False)
        assert not missing.missing_keys
        assert not missing.unexpected_keys
        report = sparsefx.step(loaded)
        assert report.step == step + 1
        assert kept(loaded) <= report.budget


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    model = sparse_bert()
    trainer, _ = trained(
        model,
        tmp_path,
        eval_strategy="steps",
        eval_steps=STEPS // 2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the first: the loss falls
    )
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{STEPS // 2}")
    assert sparsefx.step(model).step == STEPS // 2 + 1
    assert met(model)


def test_finalize_gives_a_model_of_theirs(tmp_path: Path) -> None:
    model = sparse_bert()
    trained(model, tmp_path)
    dense = sparsefx.finalize(model)
    assert type(dense) is transformers.BertForSequenceClassification
    dense.save_pretrained(tmp_path / "dense")
    again = type(dense).from_pretrained(tmp_path / "dense")
    assert differing(state(dense), state(again)) == []


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sparsefx.MaskError, match="is sparse; give the trainer what"):
        trained(sparsefx.finalize(sparse_bert()), tmp_path)
