"""From rows to records: start the ranks, watch them, judge how they ended.

Read first: `run.run`, `run.Options`, `processes.launch`, `outcome.judge`.
"""
