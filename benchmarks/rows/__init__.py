"""The rows of a table: a system, its settings, and where those come from.

Read first: `row.Row`, `row.Assignment`, `assign.assign`, `tuning.choose`.
"""
