"""Symbolic sizes, the price of each node, the table of costs."""
