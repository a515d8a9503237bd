"""A pruned model taught by the dense one, on unlabelled calls, under fixed masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsefx.errors import MaskError
from sparsefx.pruning.calibration import Calibration
from sparsefx.pruning.fit import Options
from sparsefx.tracing.example_calls import Call
from sparsefx.tracing.preserve import tensors_of

_RATE = 2e-4  # the largest learning rate of Adam
_BETAS = (0.9, 0.98)
_WARM = 0.05  # share of the steps in which the rate rises


def distil(
    dense: nn.Module,
    pruned: nn.Module,
    masks: Mapping[str, Tensor],
    data: Calibration,
    steps: int,
    options: Options,
) -> None:
    """Trains a pruned model to answer as the dense one does; dropped weights stay zero.

    A call is drawn each step; Adam lessens what sets it apart from the dense outputs,
    by a rate that rises and then falls to zero.

    Args:
        dense: run as it is.
        pruned: whose floating parameters are trained, in the mode that it is in.
        masks: by parameter name.
        data: calls and the tokens that count.
        steps: to take.
        options: the seed of the draws, and what sets outputs apart.

    Raises:
        MaskError: the outputs have no gradient, or the divergence is no finite number.
    """
    named = {n: p for n, p in pruned.named_parameters() if p.is_floating_point()}
    held = [(named[name], ~mask) for name, mask in masks.items()]
    generator = torch.Generator().manual_seed(options.seed)
    warm = max(int(_WARM * steps), 1)
    with _learning(named.values()), torch.enable_grad():
        optimizer = torch.optim.Adam(named.values(), lr=_RATE, betas=_BETAS, fused=True)
        answers = _Answers(dense, data.calls, options.memory)
        for step in range(steps):
            rate = _RATE * min(1.0, (step + 1) / warm) * (1 - step / steps)
            optimizer.param_groups[0]["lr"] = rate
            number = int(torch.randint(len(data.calls), (), generator=generator))
            (args, kwargs), valid = data.calls[number], data.valid[number]
            loss = options.damage.of(pruned(*args, **kwargs), answers(number), valid)
            if not loss.requires_grad or not bool(loss.isfinite()):
                raise MaskError(
                    f"step {step} of distillation has the loss {float(loss):g}, "
                    "which nothing can be learned from; set distill_steps=0, or give "
                    "batches whose outputs are finite and have gradients"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            with torch.no_grad():
                for weight, dropped in held:
                    weight.masked_fill_(dropped, 0.0)


class _Answers:
    """What the dense model answers, kept as far as the memory goes."""

    def __init__(self, dense: nn.Module, calls: Sequence[Call], memory: float) -> None:
        self.dense, self.calls, self.left = dense, calls, memory
        self.known: dict[int, Any] = {}

    @torch.no_grad()
    def __call__(self, number: int) -> Any:
        if number in self.known:
            return self.known[number]
        args, kwargs = self.calls[number]
        out = self.dense(*args, **kwargs)
        self.left -= sum(x.nbytes for x in tensors_of(out))
        if self.left >= 0:
            self.known[number] = out
        return out


@contextmanager
def _learning(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Parameters need gradients inside, and have none left afterwards."""
    before = [(weight, weight.requires_grad) for weight in weights]
    try:
        for weight, _ in before:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, flag in before:
            weight.grad = None
            weight.requires_grad_(flag)
