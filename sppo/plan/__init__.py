"""The plan as data: parts, saved tensors, lendings, and what becomes of each."""
