"""From the counts of an emulated step to its simulated time.

Read first: `step_time.simulated_time`.
"""
