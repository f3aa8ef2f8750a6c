"""The actions of the steps: each takes a Place and returns its values.

Read first: `machine.describe`, `training.offload`, `runs.run_16k`.
"""
