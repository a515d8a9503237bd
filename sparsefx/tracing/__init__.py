"""Any module as fx graphs bound to its live tensors, checked against it."""
