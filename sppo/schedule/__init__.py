"""The schedule as data: built from a plan, checked, and simulated."""
