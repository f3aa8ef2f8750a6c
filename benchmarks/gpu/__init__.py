"""Ten minutes of one GPU: steps in order of use, each with its own file, and a measured profile.

Read first: `suite.run`, `step.Step`, `place.Place`, `measure.measure`.
"""
