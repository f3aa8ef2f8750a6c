"""What a launch leaves on disk, and the numbers that follow from it.

Read first: `record.Record`, `store.write_bytes`, `equal_work.equal_work`, `metrics.step_flops`.
"""
