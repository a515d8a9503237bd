"""Models of transformers with layers of several widths: cut, saved, loaded."""

import pytest
import torch

import sparsefx

transformers = pytest.importorskip("transformers", reason="transformers is missing")

from sparsefx.integrations.huggingface_widths import (  # noqa: E402
    load_narrowed,
    narrowed,
)

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend
SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}


def ids(count=1):
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 40, (4, 6), generator=generator) for _ in range(count)]
    return [{"input_ids": x, "attention_mask": torch.ones_like(x)} for x in rows]


def bert():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SIZES)).eval()


def sizes(model):
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


@torch.no_grad()
def test_widths_come_back(tmp_path) -> None:
    model = bert()
    pruned = sparsefx.prune(model, ids(2), unit_density=0.5).model
    small, (batch,) = narrowed(pruned, ids()[0]), ids()
    assert type(small) is type(model)
    assert sizes(small).keys() == sizes(model).keys()
    left = sizes(small)["encoder.layer.0.attention.self.query.weight"]
    assert left[0] < 16 or sizes(small)["encoder.layer.0.output.dense.weight"][1] < 24
    assert sizes(pruned) == sizes(model)
    small.save_pretrained(tmp_path / "first")
    loaded = load_narrowed(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    for one in (small, loaded, load_narrowed(tmp_path / "second")):
        assert type(one) is type(model)
        assert sizes(one) == sizes(small)
        found, wanted = one(**batch), pruned(**batch)
        for name in ("last_hidden_state", "pooler_output"):
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match="mismatch"):  # never silently the wrong one
        transformers.BertModel.from_pretrained(tmp_path / "first")


def test_what_is_refused(tmp_path) -> None:
    model = bert()
    with pytest.raises(sparsefx.MaskError, match="no unit of this BertModel is idle"):
        narrowed(model, ids()[0])
    with pytest.raises(sparsefx.MaskError, match="give a PreTrainedModel"):
        narrowed(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    model.save_pretrained(tmp_path)
    with pytest.raises(sparsefx.MaskError, match="holds no widths"):
        load_narrowed(tmp_path)


def test_code_that_holds_widths_is_refused() -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=1, n_head=4, n_positions=12
    )
    model = transformers.GPT2Model(config).eval()
    with torch.no_grad():
        attention = model.h[0].attn
        for part in range(3):  # the first head, in queries, keys and values
            attention.c_attn.weight[:, 16 * part : 16 * part + 4] = 0.0
            attention.c_attn.bias[16 * part : 16 * part + 4] = 0.0
        attention.c_proj.weight[:4] = 0.0
    call = {"input_ids": ids()[0]["input_ids"], "use_cache": False}
    before = sizes(model)
    with pytest.raises(sparsefx.CaptureError, match="GPT2Model does not follow"):
        narrowed(model, call)
    assert sizes(model) == before
