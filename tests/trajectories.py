"""What training does, recorded: losses, costs and masks of many short runs.

A recording is compared with that of another revision bit by bit
(`benchmarks/compare_trajectories.py`), or with `trajectories.json` within a tolerance
(`test_trajectories.py`). It uses nothing but the public names of sparsefx, so that one
file records every revision. From the root of the repository:

    PYTHONPATH=. python tests/trajectories.py OUT.json              # everything
    PYTHONPATH=. python tests/trajectories.py OUT.json --compact    # the test's values
    PYTHONPATH=. python tests/trajectories.py OUT.json --only rigl  # cases by text
"""

import argparse
import functools
import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import sparsefx
from tests.trajectory_cases import EVERY, STEPS, Case, batch, cases, made

# Learners that are to be given the optimizer, unless they keep its state.
MOVING = ("set", "rigl", "granet", "magnitude")


@contextmanager
def steady() -> Iterator[None]:
    """One thread, a seed, no warnings; all is put back behind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)


def record(case: Case) -> dict[str, Any]:
    """What one run does, or the error that refuses it."""
    with steady():
        try:
            return _trained(case)
        except Exception as error:
            first = str(error).split("\n")[0].split("; ")[0].split(". ")[0]
            return {"error": {"class": type(error).__name__, "says": first}}


def _trained(case: Case) -> dict[str, Any]:
    settings = {"total_steps": STEPS, "update_every": EVERY, **case.options}
    policy = sparsefx.load_policy(case.policy, **settings)
    given: dict[str, Any] = {}
    if case.calibrated:
        given = {
            "calibration": [batch(-1), batch(-2)],
            "loss": functools.partial(F.cross_entropy, label_smoothing=0.1),
        }
    inputs = (batch(0)[0],)
    sparse = sparsefx.transform(
        made(case.model), policy, example_inputs=inputs, **given
    )
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(sparse.parameters(), lr=0.01)
        if case.adam
        else torch.optim.SGD(sparse.parameters(), lr=0.05, momentum=0.9)
    )
    moving = policy.learner in MOVING and policy.optimizer_state == "zero"
    wanted = optimizer if moving and policy.dropped == "zero" else None
    steps = []
    for index in range(STEPS):
        x, y = batch(index)
        loss = F.cross_entropy(sparse(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps.append(_step(loss, sparsefx.step(sparse, wanted)))
    report = sparsefx.report(sparse).to_dict()
    masks = sparsefx.masks(sparse)
    parameters = {n: _sums(p) for n, p in sparse.named_parameters()}
    dense = sparsefx.finalize(sparse).eval()
    with torch.no_grad():
        loss = F.cross_entropy(dense(batch(STEPS)[0]), batch(STEPS)[1])
    return {
        "steps": steps,
        "final": {
            "loss": float(loss),
            "masks": {
                n: {"kept": int(m.sum()), "of": m.numel(), "sha256": _sha(m.bool())}
                for n, m in masks.items()
            },
            "totals": report["totals"],
            "budgets": report["budgets"],
            "densities": {row["name"]: row["density"] for row in report["layers"]},
            "parameters": parameters,
            "finalized": {n: _sha(v) for n, v in dense.state_dict().items()},
        },
    }


def _step(loss: Tensor, info: Any) -> dict[str, Any]:
    found = {
        "loss": float(loss),
        "budget": float(info.budget),
        "soft_cost": float(info.soft_cost),
        "hard_cost": float(info.hard_cost),
        "changed": float(info.changed),
        "frozen": bool(info.frozen),
    }
    if len(info.budgets) > 1:
        found["budgets"] = {n: [float(v) for v in b] for n, b in info.budgets.items()}
    return found


def _sha(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().numpy().tobytes()).hexdigest()


def _sums(tensor: Tensor) -> dict[str, Any]:
    values = tensor.detach().double()
    return {
        "sum": float(values.sum()),
        "squares": float(values.square().sum()),
        "sha256": _sha(tensor),
    }


SERIES = ("loss", "soft_cost", "hard_cost", "budget", "changed", "frozen")


def compact(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a check within a tolerance needs: series by runs, counts, sums."""
    if "error" in found:
        return {"error": found["error"]["class"]}
    steps, final = found["steps"], found["final"]
    return {
        "steps": {n: _runs([step[n] for step in steps]) for n in SERIES},
        "loss": _short(final["loss"]),
        "kept": {n: mask["kept"] for n, mask in final["masks"].items()},
        "spent": {n: _short(b["kept"]) for n, b in final["budgets"].items()},
        "totals": {
            n: [_short(t["kept"]), _short(t["dense"]), _short(t["fixed"])]
            for n, t in final["totals"].items()
        },
        "squares": _short(sum(p["squares"] for p in final["parameters"].values())),
    }


def _short(value: float) -> float:
    """Twelve digits; numbers that are whole are written without a point."""
    short = float(f"{value:.12g}")
    return int(short) if short.is_integer() else short


def _runs(values: Sequence[float]) -> list[Any]:
    """Values; those that come several times in a row as [value, times]."""
    runs: list[list[Any]] = []
    for value in map(_short, values):
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return [value if times == 1 else [value, times] for value, times in runs]


def unrolled(runs: Sequence[Any]) -> list[float]:
    """The values that `_runs` has shortened."""
    found: list[float] = []
    for run in runs:
        value, times = run if isinstance(run, list) else (run, 1)
        found += [value] * times
    return found


def write(path: Path, recorded: Mapping[str, Any]) -> None:
    """JSON, one case a line."""
    lines = (
        f"{json.dumps(name)}:{json.dumps(found, separators=(',', ':'))}"
        for name, found in recorded.items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="record what training does")
    parser.add_argument("out", type=Path)
    parser.add_argument("--compact", action="store_true", help="no hashes, few digits")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--times", action="store_true", help="print seconds by case")
    options = parser.parse_args()
    print("recording", Path(sparsefx.__file__).resolve().parent, flush=True)
    recorded = {}
    for case in cases():
        if options.only in case.name:
            start = time.process_time()
            found = record(case)
            recorded[case.name] = compact(found) if options.compact else found
            if options.times:
                told = found.get("error", "")
                print(f"{time.process_time() - start:5.2f} {case.name} {told}")
    write(options.out, recorded)


if __name__ == "__main__":
    main()
