"""The masked weight, its exact gradient, and the state that a model holds."""
