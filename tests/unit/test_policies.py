"""Decisions: what the policies and the exact program give a stage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sppo.config.sizes import MIB
from sppo.cost_model.plan_costs import plan_costs
from sppo.planner.activations.integer_program import cheapest_decisions
from sppo.planner.activations.policies import choose
from sppo.planner.evaluate import stage_problem
from sppo.planner.layouts.partition import flops_balanced_cut
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from tests.unit.planning_cases import PROFILE, TINY


def test_slow_links_recompute_and_slow_memory_offloads() -> None:
    tight = TINY.with_device_memory(120 * MIB)
    slow_link = replace(PROFILE, d2h_bytes_per_second=1e8, h2d_bytes_per_second=1e8)
    plan = solve(tight, slow_link)
    assert max(stage.memory.host for stage in plan.stages) == 0
    assert any(any(part.recompute_units) for part in plan.parts)
    slow_memory = replace(PROFILE, memory_bytes_per_second=1e8)
    plan = solve(tight, slow_memory)
    assert max(stage.memory.host for stage in plan.stages) > 0
    assert not any(any(part.recompute_units) for part in plan.parts)


@pytest.mark.parametrize("limit", [102, 105, pytest.param(120, marks=pytest.mark.soak), 140])
@pytest.mark.parametrize("overlapped", [False, True])
def test_the_exact_decisions_cost_no_more_than_the_heuristic(limit: int, overlapped: bool) -> None:
    """On the same stage, and both fit."""
    profile = replace(PROFILE, overlapped_copies=overlapped, d2h_bytes_per_second=2e9)
    workload = replace(TINY.with_device_memory(limit * MIB), host_memory_bytes=40 * MIB)
    layout = TimedLayout(
        workload=workload,
        profile=profile,
        sequence_parallel=1,
        pipeline_parallel=2,
        virtual_stages=1,
        group_subsequences=6,
        lengths_tokens=flops_balanced_cut(TINY.model, 4096, 6, alignment=16),
    )
    problem = stage_problem(layout, 1)
    heuristic, best = choose(problem, "auto"), cheapest_decisions(problem)
    for decisions in (heuristic, best):
        problem.require_fit(problem.memory(decisions))
    assert problem.added_ns(best) <= 1.001 * problem.added_ns(heuristic)


def test_alpha_is_the_share_that_hides_under_the_next_subsequence() -> None:
    """alpha_i A_i <= BW * T, to within one saved tensor; long early subsequences keep a part."""
    profile = replace(PROFILE, overlapped_copies=True, d2h_bytes_per_second=4e8)
    plan = solve(TINY, profile, SolverOptions(policy="paper", subsequences=8, virtual_stages=1))
    shares = plan.parts[0].offload_share
    assert shares[-1] == 0.0
    assert 0 < shares[0] < shares[-2]
    layout_costs = plan_costs(plan, profile)[0]
    unit = 4 * max(plan.lengths_tokens) * TINY.model.ffn
    for index in range(7):
        assert layout_costs.d2h[index] <= layout_costs.forward[index + 1] + unit / 4e8 * 1e9


def test_last_subsequence_is_never_offloaded() -> None:
    plan = solve(TINY, PROFILE, SolverOptions(policy="full-offload", subsequences=4))
    for part in plan.parts:
        assert part.offload_share[-1] == 0.0
        assert all(share > 0.5 for share in part.offload_share[:-1])
