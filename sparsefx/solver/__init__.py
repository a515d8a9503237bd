"""Magnitudes, prices, bounds and budgets in; the scalars of every mask out."""
