"""Tokens alone: they are selected in the forward pass; no weight and no unit moves."""

from __future__ import annotations

from sparsefx.learners.learner import Learner

TOKENS = Learner(name="tokens", part="tokens")
