"""The harness: workloads, launches, emulations, records, tables, and the command line.

Read first: `cli.main`, `workloads.find`, `job.Job`.
"""
