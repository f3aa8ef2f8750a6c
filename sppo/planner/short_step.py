"""The plan of a step that is shorter than the one that was planned."""

from __future__ import annotations

from dataclasses import replace

from sppo.config.hardware import Hardware
from sppo.config.workload import Workload
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve


def short_plan(workload: Workload, plan: Plan, profile: Hardware, tokens: int) -> Plan:
    """A small plan of the same degrees, without limits and offload."""
    short = replace(
        workload,
        sequence_tokens=tokens,
        device_memory_bytes=None,
        host_memory_bytes=None,
    )
    options = SolverOptions(
        subsequences=max(1, min(2, tokens // plan.sequence_parallel)),
        sequence_parallel=plan.sequence_parallel,
        pipeline_parallel=plan.pipeline_parallel,
        data_parallel=plan.data_parallel,
        virtual_stages=plan.virtual_stages,
        head_alone=plan.head_alone,
        policy="no-offload",
    )
    return solve(short, profile, options)
