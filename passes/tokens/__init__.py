"""The token dimension, and what scores tokens."""
