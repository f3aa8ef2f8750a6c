"""The layouts that the planner tries: degrees, cuts, model chunks.

Read first: `timed_layout.TimedLayout`, `candidates.every_layout`, `degrees.every_degree`.
"""
