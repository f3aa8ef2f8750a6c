"""Expected values of plans, simulations, emulations and real runs, and two commits timed in turns.

Read first: `topics.TOPICS`, `differences.compare`, `compare.verdict.verdict`.
"""
