"""The process of one rank: tokens, weights, device limit, timed steps.

Read first: `rank.main`, started as `python -m benchmarks.worker.rank`.
"""
