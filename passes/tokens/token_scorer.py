r"""Keeps the k tokens that a learned scorer ranks highest: Gumbel top-k.

With scores :math:`s` of the tokens, noise :math:`g` (Gumbel) and a temperature
:math:`\tau`,

    soft = softmax((log_softmax(s) + g) / tau),    kept = the k largest of soft

While training, a kept token is multiplied by ``1 + (soft - stop_gradient(soft))``: its
value does not change, and the scorer gets the gradient of ``soft``. In eval mode there
is no noise. Tokens that are not kept are gone, not zeroed: a zeroed token becomes the
norm's bias and still takes part in attention. The first tokens (class, distillation,
registers) are always kept and are not scored.

Source: Chen et al., "Chasing Sparsity in Vision Transformers", 2021 (arXiv 2106.04533),
whose selector also counts the class token, draws noise in eval mode, and zeroes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gumbel_soft(scores: Tensor, noise: Tensor | float, tau: Tensor | float) -> Tensor:
    """The relaxed choice of one token; its k largest are the kept ones.

    Args:
        scores: (..., tokens).
        noise: Gumbel noise of that shape, or 0.
        tau: temperature, above 0; small ones make the choice hard.

    Example:
        >>> soft = gumbel_soft(torch.tensor([0.0, 1.0]), 0.0, 1.0)
        >>> [round(x, 4) for x in soft.tolist()]
        [0.2689, 0.7311]
    """
    return F.softmax((F.log_softmax(scores, -1) + noise) / tau, -1)


def select_tokens(
    tokens: Tensor,
    scores: Tensor,
    tau: Tensor,
    training: bool,
    enabled: bool,
    count: int,
    prefix: int = 1,
) -> Tensor:
    """Gathers the first ``prefix`` tokens and the ``count`` best of the others.

    Args:
        tokens: (batch, prefix + others, width).
        scores: (batch, prefix + others), or with a last dimension of one; those of
            the first tokens do not matter.
        tau: temperature.
        training: draw noise, and let the scores learn.
        enabled: False keeps every token.
        count: others to keep; all of them if there are fewer.
        prefix: first tokens that always stay.

    Returns:
        (batch, prefix + count, width), in the order the tokens had.

    Example:
        >>> x = torch.arange(4.0).view(1, 4, 1)
        >>> scores = torch.tensor([[9.0, 0.1, 0.3, 0.2]])
        >>> kept = select_tokens(x, scores, torch.ones(()), False, True, count=2)
        >>> kept.flatten().tolist()
        [0.0, 2.0, 3.0]
    """
    if _all_stay(tokens, enabled, count, prefix):
        return tokens
    found = choose_tokens(tokens, scores, tau, training, enabled, count, prefix)
    return take_tokens(tokens, *found)


def choose_tokens(
    tokens: Tensor,
    scores: Tensor,
    tau: Tensor,
    training: bool,
    enabled: bool,
    count: int,
    prefix: int = 1,
) -> tuple[Tensor, Tensor]:
    """Where the tokens stand that `select_tokens` keeps, which takes the same.

    Returns:
        Places, (batch, prefix + count), and factors of that shape: ones, through which
        the scores get their gradients.
    """
    batch, number = tokens.shape[:2]
    every = torch.arange(number, device=tokens.device).expand(batch, -1)
    if _all_stay(tokens, enabled, count, prefix):
        return every, tokens.new_ones(every.shape)
    scores = scores.reshape(batch, number)[:, prefix:]
    if training:
        noise = -torch.empty_like(scores).exponential_().log()
        scores = gumbel_soft(scores, noise, tau)
    best = scores.topk(count, -1).indices.sort(-1).values
    factors = tokens.new_ones(best.shape)
    if training:
        kept = scores.gather(1, best)
        factors = (1.0 + (kept - kept.detach())).to(tokens.dtype)
    always = tokens.new_ones(batch, prefix)
    return torch.cat([every[:, :prefix], best + prefix], 1), torch.cat(
        [always, factors], 1
    )


def _all_stay(tokens: Tensor, enabled: bool, count: int, prefix: int) -> bool:
    return not enabled or count >= tokens.shape[1] - prefix


def take_tokens(tokens: Tensor, places: Tensor, factors: Tensor) -> Tensor:
    """The tokens at these places, (batch, places, width)."""
    found = tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))
    return found * factors.unsqueeze(-1)


def return_tokens(taken: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
    """As many tokens as there were: these at their places, zeros elsewhere.

    Example:
        >>> x, places = torch.ones(1, 3, 1), torch.tensor([[0, 2]])
        >>> return_tokens(2 * take_tokens(x, places, torch.ones(1, 2)), places, x)
        tensor([[[2.],
                 [0.],
                 [2.]]])
    """
    shape = taken.shape[0], tokens.shape[1], taken.shape[2]
    at = places.unsqueeze(-1).expand(-1, -1, taken.shape[2])
    return taken.new_zeros(shape).scatter(1, at, taken)


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """What a selection was made for.

    Attributes:
        where: in front of which module tokens are dropped, or inside which.
        kept: tokens that stay, without the prefix.
        tokens: tokens there were, without the prefix.
        macs: cost of the whole model with this selection and those before it.
        without: cost without this one.
    """

    where: str
    kept: int
    tokens: int
    macs: float
    without: float


class TokenScorer(nn.Module):
    """The scorer of one selection, its temperature and its switch.

    Attributes:
        weight: (1, width), one linear map without a hidden layer, as in the paper's
            code.
        bias: (1,).
        tau: temperature, set by `anneal`.
        enabled: False keeps every token.
        counts: tokens that stay and tokens there were, without the prefix.
        choice: what a policy made it for, or None.
        steps: optimizer steps the temperature takes; None is at the last one.
        ends: temperatures at step 0 and at the last step.

    Example:
        >>> scorer = TokenScorer(8)
        >>> anneal(scorer, 0.5)
        >>> round(float(scorer.tau), 4)
        5.05
    """

    tau: Tensor

    def __init__(self, width: int) -> None:  # noqa: D107
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, width))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.trunc_normal_(self.weight, std=0.02)
        self.register_buffer("tau", torch.tensor(10.0))
        self.enabled = True
        self.counts = (0, 0)
        self.choice: TokenChoice | None = None
        self.steps: int | None = None
        self.ends = (10.0, 0.1)


def anneal(
    module: nn.Module, progress: float, *, first: float = 10.0, last: float = 0.1
) -> None:
    """Sets the temperature of every selection in a model, linearly in the progress.

    Args:
        module: anything that holds selections, also a plain graph.
        progress: share of the training that is done, in [0, 1].
        first: temperature at 0.
        last: temperature at 1.
    """
    share = min(max(progress, 0.0), 1.0)
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2] == "tau":
            buffer.fill_(first + (last - first) * share)


def scorers(module: nn.Module) -> list[TokenScorer]:
    """The scorers of a model's selections, in the order in which they run."""
    return [part for part in module.modules() if isinstance(part, TokenScorer)]
