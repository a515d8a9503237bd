"""How masks move, one learner a file; the table of names.

`soft_topk` computes masks from the weights at every forward pass. The others keep them:
each is a pure function from a `Situation` to masks. Those of `UNIT_LEARNERS` move gates
of heads, neurons and channels.
"""

from __future__ import annotations

from collections.abc import Mapping

from sparsefx.learners import dual_averaging, fixed, magnitude, regrow
from sparsefx.learners.learner import Learner
from sparsefx.learners.units import UNIT_LEARNERS as UNIT_LEARNERS

KEPT: Mapping[str, Learner] = {
    "magnitude": Learner(magnitude.decide),
    "dual_averaging": Learner(dual_averaging.decide),
    "set": Learner(regrow.decide, steady=True, grows="random"),
    "rigl": Learner(regrow.decide, steady=True, grows="gradient"),
    "granet": Learner(regrow.decide, grows="gradient"),
    "fixed": Learner(fixed.decide, steady=True),
}

TOKENS_ONLY = "tokens"  # no weight and no unit moves

LEARNERS = ("soft_topk", *KEPT, *UNIT_LEARNERS, TOKENS_ONLY)
