"""Expected values of plans, simulations, emulations and real runs, and what differs from them.

Read first: `topics.TOPICS`, `differences.compare`, `interleaved.compare`.
"""
