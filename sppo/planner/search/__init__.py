"""The search for the fastest layout: lower bounds, quick steps, best bound first.

Read first: `best_first.search`, `bounds.compute_bound_ns`, `least_added.least_added`.
"""
