"""Operations after which a weight is still used entry by entry: a zero stays a zero."""

from __future__ import annotations

KEEPING = frozenset(
    "t transpose swapaxes permute movedim moveaxis reshape view flatten unflatten "
    "squeeze unsqueeze contiguous to type type_as float half bfloat16 double clone "
    "expand expand_as broadcast_to T mT adjoint data detach getitem __getitem__ select "
    "narrow index_select gather chunk split unbind tile repeat repeat_interleave flip "
    "roll view_as_complex view_as_real normalize _weight_norm".split()
)
"""Their first argument is looked at, cast, taken apart or repeated."""

SCALING = frozenset("mul div truediv __mul__ __rmul__ __truediv__".split())
"""Each entry of one argument is multiplied or divided by something."""
