"""Commands that launch nothing: plan, simulate, emulate.

Read first: `plan.Plan`, `simulate.Simulate`, `emulate.Emulate`.
"""
