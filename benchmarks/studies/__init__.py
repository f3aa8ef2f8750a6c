"""Many launches that answer one question: sweeps, ablations, limits.

Read first: `sweep.measure`, `ablation.results`, `limit.search`, `longest.search`.
"""
