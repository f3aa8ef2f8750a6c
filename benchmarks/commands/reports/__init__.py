"""Commands that show existing records, workloads and the machine.

Read first: `table.Table`, `timeline.Timeline`, `list.List`.
"""
