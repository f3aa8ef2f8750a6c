"""What changed between two states of the code: counted values, and times of two commits in turns.

Read first: `check.topics.TOPICS`, `targets.registry.TARGETS`, `compare.verdict.verdict`.
"""
