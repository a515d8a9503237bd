"""Multipliers of several budgets: where Newton is lost, another way is taken."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sparsefx.solver import budget_multipliers
from sparsefx.solver.joint_budgets import Limits
from sparsefx.solver.request import Request
from sparsefx.solver.solve import solve


def stepped(seed: int) -> Request:
    """Layers of few distinct magnitudes: counts rise in steps."""
    rng = np.random.default_rng(seed)
    layers, budgets = int(rng.integers(3, 8)), int(rng.integers(2, 4))
    scales = 10.0 ** rng.uniform(-1, 1, layers)
    values = [torch.from_numpy(rng.integers(0, 5, 40) / 4.0 * x) for x in scales]
    rows = 10.0 ** rng.uniform(-2, 2, (budgets, layers))
    amounts = rng.uniform(0.05, 0.7, budgets) * 40 * rows.sum(1)
    limits = Limits(
        tuple(tuple(map(float, row)) for row in rows),
        tuple(map(float, amounts)),
        tuple("abc"[:budgets]),
    )

    def worths(prices: Sequence[float], sums: Sequence[float]) -> list[float]:
        return [1.0] * layers

    names = [str(i) for i in range(layers)]
    return Request(values, limits, worths, [(0, 40)] * layers, 100.0, names)


def test_newton_is_left_where_it_no_longer_halves_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In five rounds; the budgets are met all the same."""
    rounds: list[list[float]] = []
    lost: list[int] = []
    settle, direction = budget_multipliers._settle, budget_multipliers._direction
    nested = budget_multipliers.nested_root

    def settled(*given: Any) -> Any:
        rounds.append([])
        return settle(*given)

    def directed(prices: Any, x: Any, excess: Any, hessian: Any) -> Any:
        rounds[-1].append(prices.error(x, excess))
        return direction(prices, x, excess, hessian)

    def rooted(*given: Any) -> Any:
        lost.append(len(rounds[-1]))
        return nested(*given)

    monkeypatch.setattr(budget_multipliers, "_settle", settled)
    monkeypatch.setattr(budget_multipliers, "_direction", directed)
    monkeypatch.setattr(budget_multipliers, "nested_root", rooted)
    for seed in range(12):
        request = stepped(seed)
        found = solve(request)
        pairs = zip(found.soft_costs, request.limits.amounts, strict=True)
        assert all(cost <= amount * (1 + 1e-6) for cost, amount in pairs)
        assert request.limits.fit(found.counts)
    for errors in rounds:
        late = zip(errors, errors[5:], strict=False)
        assert all(now <= 0.5 * before for before, now in late)
    assert any(5 <= count < 20 for count in lost)
