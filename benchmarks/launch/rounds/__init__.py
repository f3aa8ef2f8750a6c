"""The rounds of a run: every row once, then further launches of rows that are not settled.

Read first: `one_round.Round`, `turns.Turn`.
"""
