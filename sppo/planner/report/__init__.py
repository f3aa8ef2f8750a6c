"""A plan, and why it was chosen, in words."""
