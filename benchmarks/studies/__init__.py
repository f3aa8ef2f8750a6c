"""Many launches that answer one question: sweeps, ablations, limits."""
