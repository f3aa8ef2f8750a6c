"""The records of launches on disk, and the numbers that follow from them.

Read first: `record.Record`, `store.write_bytes`, `equal_work.equal_work`, `metrics.step_flops`.
"""
