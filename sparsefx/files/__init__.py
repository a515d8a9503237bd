"""Files that nobody else can have written, and that are never half written."""
