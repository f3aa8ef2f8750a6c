"""FLOPs, bytes and time of a plan's computes, copies and messages.

Read first: `plan_costs.plan_costs`, `plan_costs.simulate_plan`, `flops.step_flops`.
"""
