"""From rows to records: start the ranks, watch them, judge how they ended.

Read first: `run.run`, `run.LaunchOptions`, `processes.launch`, `outcome.judge`.
"""
