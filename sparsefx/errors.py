"""The errors sparsefx raises: one family, all of them also `ValueError`."""


class SparsefxError(ValueError):
    """Anything sparsefx refuses; the message says what to change."""


class CaptureError(SparsefxError):
    """A model, or a part of it, cannot be recorded as a graph."""


class PolicyError(SparsefxError):
    """A policy, or one of its fields, is not understood."""


class BudgetError(SparsefxError):
    """A budget is malformed, or no allocation can meet it."""


class MaskError(SparsefxError):
    """A weight cannot be masked, or masks are used out of order."""
