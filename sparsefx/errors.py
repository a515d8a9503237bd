"""The errors sparsefx raises: one family, all of them also `ValueError`."""


class SparsefxError(ValueError):
    """Anything sparsefx refuses; the message says what to change.

    Example:
        >>> import sparsefx, torch
        >>> try:
        ...     sparsefx.transform(torch.nn.Linear(4, 2), budget=90)
        ... except SparsefxError as error:
        ...     type(error), isinstance(error, ValueError)
        (<class 'sparsefx.errors.BudgetError'>, True)
    """


class CaptureError(SparsefxError):
    """A model, or a part of it, cannot be recorded as a graph.

    Example:
        >>> import sparsefx, torch
        >>> sparsefx.capture(torch.nn.Linear(4, 2), (torch.ones(1, 3),))
        Traceback (most recent call last):
        ...
        sparsefx.errors.CaptureError: Linear does not run on the example inputs ...
    """


class PolicyError(SparsefxError):
    """A policy, or one of its fields, is not understood.

    Example:
        >>> import sparsefx
        >>> sparsefx.Policy(beta=-1)
        Traceback (most recent call last):
        ...
        sparsefx.errors.PolicyError: beta is -1; give a number above 0
    """


class BudgetError(SparsefxError):
    """A budget is malformed, or no allocation can meet it.

    Example:
        >>> import sparsefx, torch
        >>> sparsefx.transform(torch.nn.Linear(4, 2), budget=0)
        Traceback (most recent call last):
        ...
        sparsefx.errors.BudgetError: budget 0 is not positive; give a fraction ...
    """


class MaskError(SparsefxError):
    """A weight cannot be masked, or masks are used out of order.

    Example:
        >>> import sparsefx, torch
        >>> sparsefx.step(torch.nn.Linear(4, 2))
        Traceback (most recent call last):
        ...
        sparsefx.errors.MaskError: step needs what sparsefx.transform returned; ...
    """
