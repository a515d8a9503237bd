"""How masks move, one learner a file; the table of names.

A learner is a `Learner`: its needs are fields, its updates a pure function. Nobody asks
one for its name.
"""

from __future__ import annotations

from collections.abc import Mapping

from sparsefx.learners import (
    dual_averaging,
    fixed,
    magnitude,
    regrow,
    soft_topk,
    tokens,
    units,
)
from sparsefx.learners.learner import Decision as Decision
from sparsefx.learners.learner import Learner as Learner
from sparsefx.learners.learner import Situation as Situation

LEARNERS: Mapping[str, Learner] = {
    learner.name: learner
    for learner in (
        soft_topk.SOFT_TOPK,
        magnitude.MAGNITUDE,
        dual_averaging.DUAL_AVERAGING,
        regrow.SET,
        regrow.RIGL,
        regrow.GRANET,
        fixed.FIXED,
        units.TAYLOR,
        units.MAGNITUDE,
        units.SOFT_TOPK,
        tokens.TOKENS,
    )
}


def learner_of(given: str | Learner) -> Learner:
    """The learner of a policy, which has a name or a learner.

    Example:
        >>> learner_of("rigl").steady
        True
    """
    return LEARNERS[given] if isinstance(given, str) else given
