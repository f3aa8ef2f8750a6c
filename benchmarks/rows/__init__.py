"""The rows of a table: a system, its settings, and their source.

Read first: `row.Row`, `row.Configuration`, `assign.assign`, `known_grids.choose`.
"""
