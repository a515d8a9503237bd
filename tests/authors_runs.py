"""Short float64 runs that authors' own code takes too, and what is kept of them.

`benchmarks/authors.py` makes the same runs with checkouts of the authors' code and
writes what comes out into `authors.json`; `tests/training/test_authors.py` compares.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsefx

EVERY = 20
BATCHES = 8  # few and often: a task that can be learnt, so that rounding does not grow
BATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run.

    Attributes:
        preset: ours.
        options: of `sparsefx.transform`.
        code: whose code it is compared with, ``"spartan"`` or ``"granet"``.
        theirs: the options of that code.
        steps: of the optimizer.
        moves_until: the step from which their masks are left alone.
    """

    preset: str
    options: Mapping[str, Any]
    code: str
    theirs: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 200
    moves_until: int | None = None


_PARAMS = {"budget": 0.2, "budget_of": "maskable"}
# no budget is a whole number: there their baselines keep one weight fewer
_HARD = {"budget": 0.19, "keep_units": False}
_RAMP = {"budget": 0.1, "total_steps": 165, "update_every": 10, "keep_units": False}
_MOVES = {"drop_fraction": 0.5, "drop_fraction_final": 0.005, "regrow_dropped": True}
_RIGL = {**_RAMP, **_MOVES, "budget": 0.3}

RUNS: Mapping[str, Run] = {
    "spartan": Run(
        preset="spartan_paper", options={"budget": 0.2}, code="spartan",
        theirs={"adjust_cost_frac": True},
    ),
    "spartan, cosine": Run(
        preset="spartan_paper",
        options={**_PARAMS, "budget_ramp": "cosine", "beta_ramp": "cosine"},
        code="spartan", theirs={"annealing_mode": "cosine"},
    ),
    "spartan, blocks": Run(
        preset="spartan_paper", options={**_PARAMS, "granularity": "block:4x4:taps"},
        code="spartan", theirs={"block_dims": (4, 4)},
    ),
    "spartan, flops": Run(
        preset="spartan_paper", options={**_PARAMS, "cost": "macs"},
        code="spartan", theirs={"cost_model": "flops"},
    ),
    "topkast": Run(
        preset="topkast", options=_HARD, code="spartan",
        theirs={"sparsity_mode": "dual_averaging", "cost_frac_target": 0.19},
    ),
    "magnitude": Run(
        preset="magnitude", options=_HARD, code="spartan",
        theirs={"sparsity_mode": "standard", "cost_frac_target": 0.19},
    ),
    "gmp": Run(
        preset="gmp", options={**_RAMP, "end_step": 80}, code="granet", steps=165,
        theirs={"method": "GMP", "final_density": 0.1},
    ),
    "granet": Run(
        preset="granet", options={**_RAMP, **_MOVES, "end_step": 80},
        code="granet", steps=165, theirs={"method": "GraNet", "final_density": 0.1},
    ),
    "rigl": Run(
        preset="rigl", options={**_RIGL, "freeze_step": None}, code="granet", steps=165,
        theirs={"method": "DST"},
    ),
    "rigl, frozen early": Run(
        preset="rigl", options={**_RIGL, "freeze_step": 120, "drop_end": 1.0},
        code="granet", steps=165, theirs={"method": "DST"}, moves_until=120,
    ),
}  # fmt: skip


class Net(nn.Module):
    """Two convolutions, of other sizes each, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8 * 16, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(x.flatten(1))


LAYERS = ("first", "second", "head")


def network() -> Net:
    """The network in float64, drawn so."""
    net, generator = Net().double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in net.parameters():
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            fan_in = max(value[0].numel(), 9)
            value.copy_(drawn / (2 * fan_in) ** 0.5)
    return net


def batches() -> list[tuple[Tensor, Tensor]]:
    """Pictures and classes."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(BATCH, 4, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(8, (BATCH,), generator=generator),
        )
        for _ in range(BATCHES)
    ]


def ours(run: Run) -> nn.Module:
    """The network as `sparsefx.transform` makes it."""
    inputs = (batches()[0][0],)
    options = {"total_steps": run.steps, **run.options}
    return sparsefx.transform(network(), run.preset, example_inputs=inputs, **options)


def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all runs."""
    return torch.optim.SGD(
        net.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4
    )


def trained(
    net: nn.Module,
    steps: int,
    after: Callable[[int], object],
    weights: Callable[[], Sequence[Tensor]],
) -> Iterator[tuple[int, float, list[Tensor]]]:
    """Trains; yields step, loss and the weights that layers see, from time to time.

    Args:
        net: the network.
        steps: of the optimizer.
        after: is called with the number of each step when its gradients are there; it
            takes the step and moves the masks.
        weights: gives the weights that layers see.
    """
    data = batches()
    for number in range(1, steps + 1):
        x, y = data[number % BATCHES]
        net.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        after(number)
        if number % EVERY == 0 or number == steps:
            yield number, loss.item(), [w.detach().clone() for w in weights()]


def trained_by_us(run: Run) -> Iterator[tuple[int, float, list[Tensor]]]:
    """One of the runs, by this package."""
    net = ours(run)
    optimizer = optimizer_of(net)

    def after(_: int) -> None:
        optimizer.step()
        sparsefx.step(net, optimizer)

    def seen() -> list[Tensor]:
        return [net.get_submodule(layer).weight for layer in LAYERS]

    yield from trained(net, run.steps, after, seen)


def told(number: int, loss: float, weights: Sequence[Tensor]) -> dict[str, Any]:
    """What is kept of a moment: counts, and every weight's share in a few sums."""
    rows = []
    for weight in weights:
        flat = weight.reshape(-1)
        angles = torch.arange(flat.numel(), dtype=torch.float64)
        ways = [torch.sin(angles * turn + turn) for turn in (1.0, 0.37, 2.71)]
        rows.append([_short(float(flat @ way)) for way in ways])
    counts = [int(weight.count_nonzero()) for weight in weights]
    return {"step": number, "loss": _short(loss), "counts": counts, "sums": rows}


def _short(value: float) -> float:
    return float(f"{value:.10g}")
