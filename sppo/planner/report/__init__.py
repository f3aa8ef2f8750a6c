"""A plan, and why it is the one, in words."""
