r"""The best masks there are, of products with few inputs each, as in depthwise layers.

A channel of a depthwise 3x3 convolution has 9 weights and so 512 masks; each has its
best weights in closed form, and so a least loss for every number that is kept. How many
each channel keeps is then a knapsack of whole numbers, which is solved exactly:

    f_c(j) = min_k f_{c-1}(j - k) + loss_c(k)
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsefx.pruning.choice import Choice
from sparsefx.pruning.quadratic import Quadratic

_INPUTS = 9  # 2^9 masks a channel


def can_enumerate(layer: Quadratic, choose: Choice) -> bool:
    """Whether a layer has one output a group, few inputs and no structure."""
    _, outputs, inputs = layer.target.shape
    return outputs == 1 and inputs <= _INPUTS and choose.site.groups is None


@dataclass(frozen=True, slots=True, eq=False)
class Enumerated:
    """The best mask of each channel for every number of kept weights.

    Attributes:
        losses: (channels, inputs + 1), falling.
        masks: (channels, inputs + 1, inputs), bool.
        weights: likewise, scaled.
    """

    losses: Tensor
    masks: Tensor
    weights: Tensor

    @classmethod
    def of(cls, layer: Quadratic) -> Enumerated:
        """Tries every mask of every channel; the ridge counts.

        Args:
            layer: with one output a group.
        """
        target, matrix = layer.target[:, 0].double(), layer.inputs.matrix().double()
        channels, inputs = target.shape
        pull = torch.einsum("cij,cj->ci", matrix, target)
        whole = (pull * target).sum(1)
        losses = whole[:, None].repeat(1, inputs + 1)
        weights = target.new_zeros(channels, inputs + 1, inputs)
        every = torch.arange(channels, device=target.device)
        for kept in range(1, inputs + 1):
            places = torch.tensor(list(itertools.combinations(range(inputs), kept)))
            places = places.to(target.device)
            some = matrix[:, places[:, :, None], places[:, None]]
            right = pull[:, places]
            fitted = torch.linalg.solve(some, right[..., None])[..., 0]
            value, best = (whole[:, None] - (right * fitted).sum(-1)).min(1)
            losses[:, kept] = value
            weights[:, kept].scatter_(1, places[best], fitted[every, best])
        return cls(losses, weights != 0, weights)

    def choose(self, count: int) -> Tensor:
        """How many weights each channel keeps, of so many in all, at least loss."""
        channels, most = self.losses.shape[0], self.losses.shape[1] - 1
        least = torch.full((count + 1,), torch.inf, dtype=torch.float64)
        least[0] = 0.0
        losses, taken = self.losses.cpu(), []
        for row in losses:
            tried = least.new_full((most + 1, count + 1), torch.inf)
            for kept in range(min(most, count) + 1):
                tried[kept, kept:] = least[: count + 1 - kept] + row[kept]
            least, choice = tried.min(0)
            taken.append(choice.to(torch.uint8))
        found, left = torch.zeros(channels, dtype=torch.long), count
        for channel in range(channels - 1, -1, -1):
            found[channel] = int(taken[channel][left])
            left -= int(found[channel])
        return found

    def solve(self, count: int) -> tuple[Tensor, Tensor]:
        """Scaled weights and mask, (channels, 1, inputs), of so many weights in all."""
        kept = self.choose(count).to(self.masks.device)
        place = torch.arange(len(kept), device=kept.device), kept
        return self.weights[place][:, None], self.masks[place][:, None]
