"""What magnitudes are worth: a layer's own scale and the way it is written are free."""

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsefx.masking.site import Site
from sparsefx.policies.magnitude_worths import shares, worths

COSTS = {"macs": sympy.Integer(6)}


def site(op: str, weight: torch.Tensor) -> Site:
    return Site("w", "", op, tuple(weight.shape), COSTS, weight=weight)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))
def test_a_transposed_convolution_is_worth_what_the_same_map_is(
    inputs: int, outputs: int, taps: int
) -> None:
    """Its weight lies the other way round; its units are still fed by all inputs."""
    generator = torch.Generator().manual_seed(inputs + 10 * outputs)
    weight = torch.randn(outputs, inputs, taps, generator=generator)
    straight = site("conv1d", weight)
    turned = site("conv_transpose1d", weight.transpose(0, 1).contiguous())
    other = site("linear", torch.randn(5, 7, generator=generator))
    first, second = (worths([x, other], "layer", "macs") for x in (straight, turned))
    assert second == pytest.approx(first, rel=1e-6)
    assert shares([turned], {"macs": 1.0}) == [(6 / (inputs * taps)) ** 0.5]


def test_a_row_of_an_embedding_is_fed_by_one_input() -> None:
    table = site("embedding", torch.randn(11, 4))
    assert shares([table], {"macs": 1.0}) == [6**0.5]
