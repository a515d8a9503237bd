"""Graphs as SVG, HTML and DOT."""
