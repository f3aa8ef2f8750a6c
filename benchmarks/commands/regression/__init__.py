"""Commands that find regressions.

Read first: `history.History`.
"""
