"""How masks move: one learner a file."""
