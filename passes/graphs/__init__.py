"""Graphs that own their tensors; writing nodes; which parameter an operand is."""
