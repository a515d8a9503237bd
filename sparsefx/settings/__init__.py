"""What a user writes, read and checked: pure values, no tensors."""
