"""Commands that tell whether something changed or became slower.

Read first: `check.Check`, `compare.Compare`, `history.History`.
"""
