"""What a person reads: tables, pages, curves, the numbers of a mask's spectrum."""
