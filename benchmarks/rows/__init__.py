"""The rows of a table: a system, its settings, and where those come from."""
