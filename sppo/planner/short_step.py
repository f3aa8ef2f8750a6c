"""The plan of a short step, such as the first step of a training run."""

from __future__ import annotations

from dataclasses import replace

from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve


def short_plan(workload: Workload, plan: Plan, profile: Hardware, tokens: int) -> Plan:
    """A plan of a shorter step with the degrees of `plan`, without limits and offload.

    `tokens` is the length of a sequence of the short step.
    """
    short = replace(
        workload, sequence_tokens=tokens, device_memory_bytes=None, host_memory_bytes=None
    )
    options = SolverOptions(
        subsequences=max(1, min(2, tokens // plan.sequence_parallel)),
        sequence_parallel=plan.sequence_parallel,
        ulysses_parallel=plan.ulysses_parallel,
        context_parallel=plan.context_parallel,
        weights="sharded" if plan.sharded_weights else "whole",
        pipeline_parallel=plan.pipeline_parallel,
        data_parallel=plan.data_parallel,
        virtual_stages=plan.virtual_stages,
        head_alone=plan.head_alone,
        policy="no-offload",
    )
    return solve(short, profile, options)
