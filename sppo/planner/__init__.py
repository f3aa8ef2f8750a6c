"""From a workload and its hardware to the fastest plan that fits.

Read first: `solve.solve`, `options.SolverOptions`, `evaluate.plan_of`, `longest.longest_tokens`.
"""
