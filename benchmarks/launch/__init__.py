"""From rows to records: start the ranks, watch them, judge how they ended.

Read first: `run.run`, `options.Options`, `ranks.processes.launch`, `ranks.outcome.judge`.
"""
