"""The machine beside a launch: a fixed kernel, foreign load, throttling.

Read first: `watch.MachineWatch`.
"""
