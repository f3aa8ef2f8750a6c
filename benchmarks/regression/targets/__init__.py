"""What is timed: pieces of the suite by name, each in a process of its own, and the main jobs.

Read first: `registry.TARGETS`, `timed.main`.
"""
