"""Metrics over commits: lines of JSON, one for each run and machine; series, change points.

Read first: `entry.Entry`, `store.append`, `series.all_series`, `changes.find_changes`.
"""
