"""Curves of counts pass through what was swept, rise, and stay in their bounds."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsefx.solver.count_curves import Curves


@st.composite
def swept(draw: Any) -> tuple[torch.Tensor, list[float], float]:
    """Exponents of a layer, multipliers at which it is swept, and how sums round."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 3.0, 100.0]))
    z = scale * torch.randn(50, generator=generator, dtype=torch.float64)
    nus = draw(st.lists(st.floats(-20, 20), min_size=1, max_size=6, unique=True))
    return z, nus, draw(st.sampled_from([0.0, 1e-7, 1e-3]))


def sums(z: torch.Tensor, nu: float) -> tuple[float, float]:
    m = torch.sigmoid(z + nu)
    return float(m.sum()), float((m * (1 - m)).sum())


@settings(max_examples=40)
@given(swept())
def test_a_curve_never_falls(problem: Any) -> None:
    """Though sums round, here alternately up and down."""
    z, nus, error = problem
    curves = Curves([50], [0], [50], [(float(z.min()), float(z.max()))])
    for number, nu in enumerate(sorted(nus)):
        kept, spread = sums(z, nu)
        sign = -1 if number % 2 else 1
        curves.add([nu], [min(kept * (1 + sign * error), 50.0)], [spread])
    grid = torch.linspace(-25, 25, 401, dtype=torch.float64)
    grid = torch.cat([grid, torch.tensor(nus, dtype=torch.float64)]).sort().values
    found = torch.cat([curves.at(nu[None])[0] for nu in grid])
    assert bool((found.diff() >= -1e-12 * 50).all())


@settings(max_examples=60)
@given(swept(), st.integers(0, 20), st.integers(30, 50))
def test_a_curve_passes_through_what_was_swept(
    problem: Any, low: int, high: int
) -> None:
    z, nus, _ = problem
    curves = Curves([50], [low], [high], [(float(z.min()), float(z.max()))])
    for nu in nus:
        kept, spread = sums(z, nu)
        curves.add([nu], [kept], [spread])
    for nu in nus:
        kept, spread = sums(z, nu)
        found, slope = curves.at(torch.tensor([nu], dtype=torch.float64))
        inside = low <= kept <= high
        clamped = min(max(kept, float(low)), float(high))
        assert float(found) == pytest.approx(clamped, rel=1e-6, abs=1e-6)
        if low + 1e-6 < kept < high - 1e-6:
            assert float(slope) > 0
        elif not inside:
            assert float(slope) == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=60)
@given(swept(), st.floats(-20, 20))
def test_the_spread_is_the_slope_of_the_count(problem: Any, nu: float) -> None:
    z, nus, _ = problem
    assume(all(abs(nu - at) > 1e-3 for at in nus))
    curves = Curves([50], [0], [50], [(float(z.min()), float(z.max()))])
    for at in nus:
        kept, spread = sums(z, at)
        curves.add([at], [kept], [spread])
    step = torch.tensor([nu - 1e-5, nu, nu + 1e-5], dtype=torch.float64)
    (low, _), (_, slope), (high, _) = (curves.at(value[None]) for value in step)
    assert float(slope) == pytest.approx(float(high - low) / 2e-5, rel=1e-5, abs=1e-6)
