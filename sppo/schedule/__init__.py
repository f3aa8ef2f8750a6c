"""The schedule as data: built from a plan, checked, and simulated.

Read first: `instructions.Instruction`, `dependencies.Schedule`, `build.build_schedule`,
`check.check_schedule`, `simulate.simulate`.
"""
