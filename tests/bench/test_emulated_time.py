"""What an emulated SPPO computes is what its cost model turns into time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from baselines.protocol import roles_of
from baselines.registry import load
from benchmarks.emulation import processes
from benchmarks.emulation.emulator import Emulator
from benchmarks.emulation.result import RoleReport
from benchmarks.emulation.time.step_time import simulated_time
from benchmarks.job import ATTENTION
from benchmarks.workloads import find
from sppo.config.hardware import load_hardware
from sppo.cost_model.flops import head_flops_per_token
from sppo.plan.blocks import block_of
from sppo.plan.plan import Plan
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve


def charged_flops(plan: Plan) -> tuple[int, int]:
    """Products and attention of a step over all ranks, a backward being two forwards.

    What `sppo.cost_model.plan_costs` and `sppo.cost_model.msp` turn into time, slice by slice.
    """
    model, slicing = plan.model, plan
    block = block_of(model)
    recompute_flops = {unit.name: unit.dense_flops for unit in block.saved_tensors}
    products, attention = 0, 0
    for number, part in enumerate(plan.parts):
        layers = len(part.layer_range)
        each = 3 * (layers * block.dense_flops_per_token + part.head * head_flops_per_token(model))
        for index, start in enumerate(plan.starts_tokens):
            for piece in slicing.slices(number, index):
                dropped = part.recompute_units[index]
                if piece.rank != number % plan.pipeline_parallel:
                    dropped = slicing.split_of(number, index).recompute_units
                recomputed = layers * sum(recompute_flops[name] for name in dropped)
                products += piece.tokens * (each + recomputed)
                forwards = 4 if "attention.output" in dropped else 3
                flops = block.mixer_flops(start + piece.start, piece.tokens)
                attention += forwards * layers * flops
    return plan.sequences_per_step * products, plan.sequences_per_step * attention


def counted_flops(reports: Sequence[RoleReport]) -> tuple[int, int]:
    """The same of an emulation: the five products of a flash backward stand for four."""
    products, attention = 0, 0
    for report in reports:
        assert report.counts is not None, report.reason
        operations = report.counts.flops_by_operation
        backward = sum(
            count
            for name, count in report.counts.flops_by_operator.items()
            if ATTENTION in name and name.endswith("_backward")
        )
        products += report.ranks * operations.matmul
        attention += report.ranks * (operations.attention_causal - backward // 5)
    return products, attention


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["lean", "full-recompute"])
@pytest.mark.soak
def test_emulated_flops_are_those_that_the_cost_model_charges(policy: str, tmp_path: Path) -> None:
    workload, adapter = find("mini-cpu"), load("sppo")
    options = SolverOptions(policy=policy, subsequences=2)
    profile = load_hardware(workload.cluster.hardware)
    plan = solve(workload, profile, options)
    job = processes.make_job(workload, adapter, options, tmp_path)
    roles = roles_of(adapter, workload, options)
    reports = Emulator(parent=tmp_path, time_limit_seconds=200.0).run(job, roles)
    assert counted_flops(reports) == charged_flops(plan)
    assert all("attention.query" in units for part in plan.parts for units in part.recompute_units)
    time = simulated_time("sppo", job.settings, workload, profile, reports)
    assert time is not None
    assert time.step_seconds > plan.makespan_seconds
