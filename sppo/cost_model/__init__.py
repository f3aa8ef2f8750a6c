"""What a plan's computes, copies and messages take, in FLOPs, bytes and time."""

from sppo.cost_model.collectives import step_collectives
from sppo.cost_model.flops import StepFlops, step_flops
from sppo.cost_model.msp import plan_slice_costs
from sppo.cost_model.plan_costs import simulate_plan
from sppo.cost_model.times import BlockSeconds, block_seconds

__all__ = [
    "BlockSeconds",
    "StepFlops",
    "block_seconds",
    "plan_slice_costs",
    "simulate_plan",
    "step_collectives",
    "step_flops",
]
