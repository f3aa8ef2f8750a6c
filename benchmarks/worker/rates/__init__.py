"""Rates of a machine for a hardware profile, measured by ranks.

Read first: `measure_hardware.main`, started by `sppo-bench profile`.
"""
