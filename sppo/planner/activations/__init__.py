"""Which saved tensors of a stage are kept, offloaded or recomputed.

Read first: `stage_problem.StageProblem`, `policies.choose`, `integer_program.cheapest_decisions`.
"""
