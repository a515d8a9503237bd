"""The methods on one layer, against loops over dense float64 matrices."""

import pytest
import torch

from sparsefx.masking.site import Site
from sparsefx.pruning.admm import admm
from sparsefx.pruning.choice import Choice
from sparsefx.pruning.moments import Moments
from sparsefx.pruning.obs import obs
from sparsefx.pruning.products import Form
from sparsefx.pruning.quadratic import Inputs, Quadratic
from sparsefx.settings.granularity import Granularity

SHAPE = 12, 32
GRANULARITIES = ["unstructured", "2:4", "block:1x4", "block:4x1"]


def problem(root=False):
    """A layer whose inputs are much alike, from their moments or from their root."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(32, 32, generator=generator, dtype=torch.float64)
    rows = torch.randn(90, 32, generator=generator, dtype=torch.float64) @ mix
    rows = rows + 3 * rows[:, :1]
    weight = torch.randn(1, *SHAPE, generator=generator, dtype=torch.float64)
    own = (rows / 90**0.5)[None]
    moments = Moments(None, own) if root else Moments(own.mT @ own, None)
    return Quadratic.of(weight, Inputs.of(moments, 0.01))


def choice_of(granularity, share):
    grain = Granularity.parse(granularity)
    site = Site("w", "", "linear", SHAPE, {}, granularity=grain)
    return Choice(site, Form(SHAPE), round(share * site.units))


def fitted(layer, mask):
    """The best weights under a mask, one row's equations after another."""
    matrix, found = layer.inputs.matrix()[0], torch.zeros_like(layer.target)
    for row, (target, kept) in enumerate(zip(layer.target[0], mask[0], strict=True)):
        if kept.any():
            right = (matrix @ target)[kept]
            found[0, row, kept] = torch.linalg.solve(matrix[kept][:, kept], right)
    return found


def splitting(layer, choose, first, last, steps):
    """The alternating directions, each quadratic solved as it stands."""
    matrix = layer.inputs.matrix()[0]
    sparse = layer.target * choose(layer.target**2)
    dual = torch.zeros_like(sparse)
    for step in range(steps):
        rho = first * (last / first) ** (step / (steps - 1))
        system = matrix + rho * torch.eye(len(matrix), dtype=matrix.dtype)
        right = layer.target @ matrix + rho * sparse - dual  # the dual, not scaled
        moved = torch.linalg.solve(system, right[0].T).T[None] + dual / rho
        mask = choose(moved**2)
        sparse = moved * mask
        dual = rho * (moved - sparse)
    return fitted(layer, mask), mask


def surgery(layer, choose):
    """Columns in order, every one by the whole inverse of what is ahead."""
    weight, matrix = layer.target[0].clone(), layer.inputs.matrix()[0]
    spread = [torch.linalg.inv(matrix[i:, i:])[0, 0] for i in range(len(matrix))]
    mask = choose((weight**2 / torch.stack(spread))[None])
    for column in range(weight.shape[1]):
        inverse = torch.linalg.inv(matrix[column:, column:])
        gone = weight[:, column] * ~mask[0, :, column]
        weight[:, column:] -= gone[:, None] / inverse[0, 0] * inverse[0]
    return fitted(layer, mask), mask


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_alternating_directions(granularity) -> None:
    layer, choose = problem(), choice_of(granularity, 0.5)
    found, mask = admm(layer, choose)
    wanted, best = splitting(layer, choose, 0.1, 0.7, 20)
    assert torch.equal(mask, best)
    assert layer.loss(found) <= layer.loss(wanted) * (1 + 1e-3) + 1e-9


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_surgery(granularity) -> None:
    layer, choose = problem(), choice_of(granularity, 0.5)
    found, mask = obs(layer, choose)  # one block of columns: chosen once
    wanted, best = surgery(layer, choose)
    assert torch.equal(mask, best)
    assert layer.loss(found) <= layer.loss(wanted) * (1 + 1e-3) + 1e-9


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_root_of_the_moments_serves_nearly_as_well(share) -> None:
    choose, losses = choice_of("unstructured", share), []
    for root in (False, True):
        layer = problem(root)
        losses.append(layer.loss(admm(layer, choose)[0]))
    assert losses[1] < 1.3 * losses[0]
