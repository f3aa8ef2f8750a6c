"""`sppo-bench check`: values without a clock, compared with committed expected values.

Read first: `topics.TOPICS`, `gate.check`, `differences.compare`, `report.lines`.
"""
