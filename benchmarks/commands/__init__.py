"""The commands of `sppo-bench`: flags, checks and output.

Read first: `measuring.run.Run`, `planning.plan.Plan`, `arguments.UsageError`.
"""
