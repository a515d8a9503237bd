"""Groups of channels that must grow together."""
