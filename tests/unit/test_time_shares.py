"""Where a simulated step goes: shares that add up, each seen where only its cause is there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.workloads import find
from sppo.config.hardware import Hardware, load_hardware
from sppo.cost_model.kernel_limit import kernel_limit_seconds
from sppo.cost_model.time_shares import TimeShares, time_shares
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from tests.unit.planning_cases import PROFILE, TINY

FREE = TINY.with_device_memory(None)
FLAT = replace(PROFILE, rates=PROFILE.rates[-1:], layer_overhead_seconds=0.0)
"""Every length has one rate."""


def shares_of(options: SolverOptions, hardware: Hardware = PROFILE) -> TimeShares:
    plan = solve(FREE, hardware, options)
    shares = time_shares(plan, hardware)
    assert sum(share for _, share in shares.rows) == pytest.approx(1)
    assert all(share > -1e-9 for _, share in shares.rows)
    limited = kernel_limit_seconds(FREE, hardware) / plan.makespan_seconds
    assert shares.kernels == pytest.approx(limited, rel=1e-4)
    return shares


def test_an_uncut_step_of_flat_rates_on_one_stage_is_all_kernels() -> None:
    options = SolverOptions(sequence_parallel=2, subsequences=1, policy="no-offload")
    silent = replace(FLAT, collective_bytes_per_second=1e30, memory_bytes_per_second=1e30)
    assert shares_of(options, hardware=silent).kernels == pytest.approx(1, rel=1e-6)


def test_every_cause_has_its_own_share() -> None:
    cut = SolverOptions(sequence_parallel=2, subsequences=16, policy="no-offload")
    assert shares_of(cut).short_kernels > 0
    assert shares_of(cut).collectives > 0
    assert shares_of(cut).idle == pytest.approx(0, abs=1e-9)
    again = shares_of(replace(cut, policy="full-recompute"))
    assert again.recomputation > 0.1
    assert shares_of(replace(cut, policy="full-offload")).copies > 0
    pipeline = SolverOptions(pipeline_parallel=2, subsequences=4, msp=False, policy="no-offload")
    stages = shares_of(pipeline)
    assert stages.idle > 0.05
    assert stages.messages > 0
    assert stages.collectives == 0
    hosted = shares_of(replace(pipeline, kv_offload=True))
    assert hosted.copies > stages.copies
    split = shares_of(replace(pipeline, msp=True))
    assert split.collectives > 0, "slices exchange K and V"
    assert split.other > stages.other, "gradients of helpers are added"


def test_a_large_plan_has_its_share_of_the_kernel_limit() -> None:
    profile = load_hardware("a100-80g")
    workload = find("gpt-7b-1m-32xa100")
    plan = solve(workload, profile)
    shares = time_shares(plan, profile)
    limited = kernel_limit_seconds(workload, profile) / plan.makespan_seconds
    assert shares.kernels == pytest.approx(limited, rel=1e-3)
    assert shares.kernels > 0.95
