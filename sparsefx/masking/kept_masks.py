"""Masks that are kept as tensors, because no rule on the weights gives them back.

Forward ``h w``. Backward, with ``G = dL/d(h w)``,

    dL/dw_i = G_i  where i is in the backward set, 0 elsewhere;

that set is the mask itself, a wider one (Top-KAST), or everything while ``through`` is
above 0. At the steps at which a learner grows entries by their gradient, autograd so
delivers a dense gradient; when the backward pass has ended, `KeptMasks.gather` takes
it as scores and leaves the masked gradient behind. At other steps nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsefx.kernels.mask_rule import flagged, straight_through
from sparsefx.masking.explored import Explored
from sparsefx.masking.held import Held
from sparsefx.masking.missing_share import take_part, tell_of_scores
from sparsefx.masking.rank_means import mean_over_ranks
from sparsefx.masking.state_keys import of_dense
from sparsefx.torch_internals import is_compiling, transforming

SCORE = "score_"  # of the keys under which a checkpoint holds scores


class _KeptWeight(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        mask: Tensor,
        reach: Tensor | None,
        mu: Tensor,
        through: Tensor,
        index: int,
        grows: bool,
    ) -> Tensor:
        reach = mask if reach is None else reach
        ctx.save_for_backward(weight, reach, mu, through)
        ctx.index, ctx.grows = index, grows
        return torch.where(mask, weight, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, reach, mu, through = ctx.saved_tensors
        g = grad.to_dense() if grad.is_sparse else grad
        told = tell_of_scores if ctx.grows else take_part
        whole = is_compiling() or told(mu, ctx.index, weight)
        if whole or not ctx.grows:
            reach = reach | (through[ctx.index] > 0)
        local = torch.where(reach, g, 0.0)
        # a gradient for mu, though it is 0: its hook tells that a backward pass ran
        return local, None, None, torch.zeros_like(mu), None, None, None


def kept_weight(
    weight: Tensor,
    mask: Tensor,
    reach: Tensor | None,
    mu: Tensor,
    through: Tensor,
    index: int,
    grows: bool = False,
) -> Tensor:
    """The weight a layer sees: ``h w`` (see the module's docstring).

    Args:
        weight: the latent weight ``w``, any shape.
        mask: ``h``, bool, of the weight's shape.
        reach: the backward set, like ``mask``; None is the mask.
        mu: multipliers, one a site; only their hook is of use here.
        through: above 0 where every entry receives its gradient; shape (sites,).
        index: which site this weight is.
        grows: gradients become scores when the backward pass has ended.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> w = torch.tensor([0.5, -2.0])
        >>> mask = torch.tensor([False, True])
        >>> kept_weight(w, mask, None, one, 0 * one, 0)
        tensor([ 0., -2.])
    """
    if transforming():
        wide = mask if reach is None else reach
        return straight_through(mask, weight, wide | (through[index] > 0))
    out: Tensor = _KeptWeight.apply(  # type: ignore[no-untyped-call, unused-ignore]
        weight, mask, reach, mu, through, index, grows
    )
    return flagged(out, weight)


class KeptMasks(Held):
    """The masks of all sites as bool tensors, and the scores of the next growth.

    Attributes:
        scores: by site number, the signed dense gradient of this step so far, from the
            first backward pass of a step with growth to its end; with `decayed` ones,
            of dropped entries, a sum over steps.
        wanted: the next backward passes are those of a step with growth.
        wide: a second set of masks says what receives gradients.
        explored: what was kept at some step.
    """

    def __init__(self, weights: Sequence[Tensor], wide: bool) -> None:  # noqa: D107
        super().__init__()
        self.scores: dict[int, Tensor] = {}
        self.wanted = False
        self.wide = wide
        for kind in ("mask", "reach")[: 1 + wide]:
            for index, weight in enumerate(weights):
                everything = torch.ones_like(weight, dtype=torch.bool)
                self.hold(f"{kind}_{index}", everything)
        self.explored = Explored(weights)

    def mask(self, index: int) -> Tensor:
        """What a site keeps."""
        found: Tensor = getattr(self, f"mask_{index}")
        return found

    def reach(self, index: int) -> Tensor | None:
        """What receives gradients, where that is not the mask."""
        return getattr(self, f"reach_{index}") if self.wide else None

    def masks(self, count: int) -> list[Tensor]:
        """The masks of all sites."""
        return [self.mask(index) for index in range(count)]

    @torch.no_grad()
    def gather(self, weights: Sequence[Tensor]) -> None:
        """Takes the dense gradients as scores; leaves the masked ones.

        Runs when a backward pass has ended. Gradients of kept entries go on
        accumulating where they are; those of dropped ones are added up here.
        """
        if not self.wanted:
            return
        for index, weight in enumerate(weights):
            if weight.grad is None:
                continue
            dropped = ~self.mask(index)
            self.add(index, weight.grad, dropped)
            weight.grad.masked_fill_(dropped, 0.0)

    @torch.no_grad()
    def add(self, index: int, gradient: Tensor, among: Tensor | None = None) -> None:
        """Adds a dense gradient to the scores of this step.

        Args:
            index: of the site.
            gradient: in the weight's shape.
            among: entries whose gradients have not been added up already; None is all.
        """
        score = gradient.detach().to(torch.float32, copy=True)
        before = self.scores.get(index)
        if before is not None:  # one that overflowed says nothing
            counts = before.isfinite() if among is None else among & before.isfinite()
            score += torch.where(counts, before, 0.0)
        self.scores[index] = score

    def decayed(self, factor: float) -> dict[int, Tensor]:
        """What is left of the scores when a step has ended."""
        return {i: factor * s for i, s in self.scores.items()} if factor else {}

    def ranked(self, count: int) -> list[Tensor | None]:
        """Absolute scores of all sites, flat, the same on all ranks.

        Ranks that have already averaged their gradients hold equal scores, and those
        of passes that were not reduced (`no_sync`) are averaged here.
        """
        found = [self.scores.get(index) for index in range(count)]
        return [
            None
            if score is None
            else mean_over_ranks(score, self.data).abs().reshape(-1)
            for score in found
        ]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KeptMasks:
        super()._apply(fn, recurse)
        for index, score in self.scores.items():
            device = fn(torch.empty(0, device=score.device)).device
            self.scores[index] = score.to(device)
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for index, score in self.scores.items():
            destination[f"{prefix}{SCORE}{index}"] = score

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        if of_dense(state_dict, prefix):
            return
        self.scores = {}
        for key in [k for k in state_dict if k.startswith(prefix + SCORE)]:
            index = int(key.removeprefix(prefix + SCORE))
            like = self.mask(index)
            self.scores[index] = state_dict.pop(key).to(like.device, copy=True)
        super()._load_from_state_dict(state_dict, prefix, *rest)
