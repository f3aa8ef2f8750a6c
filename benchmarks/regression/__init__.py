"""What changed between two states of the code: counted values, and times of two trees in turns.

Read first: `check.topics.TOPICS`, `interleaved.compare`.
"""
