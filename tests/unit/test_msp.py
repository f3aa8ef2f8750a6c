"""Multiplexed sequence partitioning as data: the paper's Table 3, slices, schedules, the choice."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.reporting.simulated_step import of_unit_costs
from sppo.config.errors import Infeasible
from sppo.config.models import gpt
from sppo.config.sizes import MIB
from sppo.memory_model.decisions import KEEP, StageDecisions
from sppo.plan.msp import Slicing, msp_splits, paper_table_3
from sppo.plan.plan import Plan
from sppo.planner.activations.policies import uniform
from sppo.planner.activations.stage_problem import StageProblem
from sppo.planner.layouts.candidates import every_layout
from sppo.planner.layouts.partition import prefix_flops, slice_cut
from sppo.planner.msp import with_msp
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.dependencies import Schedule, ScheduleError
from sppo.schedule.instructions import Op, parse_instruction
from tests.numerics.pipelines import equal_slices, make_plan
from tests.unit.planning_cases import PROFILE, TINY

MODEL = gpt("gpt-test", layers=8, hidden=32, heads=4, vocabulary=61)


def plan_with_msp(stages: int, count: int, virtual_stages: int = 1, sequences: int = 1) -> Plan:
    return make_plan(
        MODEL,
        (8,) * count,
        stages=stages,
        virtual_stages=virtual_stages,
        sequences=sequences,
        head_alone=virtual_stages > 1,
        msp=True,
    )


def test_the_papers_table_3() -> None:
    rows = [tuple(map(list, paper_table_3(4, 8, stage))) for stage in range(4)]
    assert rows == [([0, 1, 2], []), ([0, 1], [7]), ([0], [6, 7]), ([], [5, 6, 7])]
    splits = msp_splits(4, 4, 8, equal_slices((12,) * 8))
    ranks = [(split.part, split.fills, split.ranks) for split in splits]
    assert ranks == [
        (0, True, (0, 1, 2, 3)),
        (1, True, (1, 2, 3)),
        (2, True, (2, 3)),
        (1, False, (0, 1)),
        (2, False, (0, 1, 2)),
        (3, False, (0, 1, 2, 3)),
    ]


def test_a_stage_with_a_subsequence_too_short_for_its_ranks_has_no_split() -> None:
    splits = msp_splits(4, 4, 6, equal_slices((12, 3, 12, 12, 12, 1)))
    assert [(split.part, split.fills) for split in splits] == [(1, True), (2, True)]


@given(start=st.integers(0, 4096), tokens=st.integers(64, 4096), slices=st.integers(1, 8))
def test_slices_cover_a_subsequence_and_cost_the_same(start: int, tokens: int, slices: int) -> None:
    lengths = slice_cut(MODEL, start, tokens, slices)
    assert sum(lengths) == tokens
    ends = list(itertools.accumulate(lengths, initial=start))
    costs = [prefix_flops(MODEL, b) - prefix_flops(MODEL, a) for a, b in itertools.pairwise(ends)]
    one_token = prefix_flops(MODEL, ends[-1]) - prefix_flops(MODEL, ends[-1] - 1)
    assert max(costs) - min(costs) <= 2 * one_token


def test_pieces_join_the_slices_of_neighbouring_chunks() -> None:
    splits = msp_splits(4, 4, 8, equal_slices((12,) * 8))
    slicing = Slicing(pipeline_parallel=4, lengths_tokens=(12,) * 8, msp_splits=splits)
    assert [tuple(piece) for piece in slicing.pieces(0, 0)] == [
        (0, 0, 0, 3),
        (1, 0, 3, 1),
        (1, 1, 4, 2),
        (2, 1, 6, 2),
        (2, 2, 8, 1),
        (3, 2, 9, 3),
    ]
    assert [tuple(piece) for piece in slicing.pieces(2, 4)] == [(0, 0, 0, 12)]


def test_the_papers_example_takes_8_33_units_instead_of_11() -> None:
    plain = of_unit_costs(pipeline_parallel=4, subsequences=8)
    split = of_unit_costs(pipeline_parallel=4, subsequences=8, msp=True)
    assert plain.forward_makespan == 11
    assert split.forward_makespan == pytest.approx(25 / 3)
    assert split.makespan == 25
    assert of_unit_costs(pipeline_parallel=2, subsequences=8, msp=True).makespan == 24


@settings(max_examples=24, deadline=None)
@given(
    degrees=st.sampled_from([(p, v) for p in range(2, 9) for v in (1, 2, 4) if p * v <= 8]),
    count=st.integers(1, 32),
    sequences=st.integers(1, 2),
)
def test_every_schedule_with_slices_passes(
    degrees: tuple[int, int], count: int, sequences: int
) -> None:
    plan = plan_with_msp(*(degrees[0], count), degrees[1], sequences)
    schedule = build_schedule(plan)
    check_schedule(schedule)
    texts = [str(each) for stage in schedule.stages for each in stage]
    assert [str(parse_instruction(text)) for text in texts] == texts


def edited(schedule: Schedule, stage: int, text: str) -> Schedule:
    """Without one instruction."""
    stages = [list(instructions) for instructions in schedule.stages]
    stages[stage].remove(parse_instruction(text))
    return replace(schedule, stages=tuple(map(tuple, stages)))


@pytest.mark.parametrize(
    ("stage", "text", "why"),
    [
        (0, "SEND_W0.0/1@0", "missing SEND_W0.0/1@0"),
        (1, "RECV_W0.0/1@0", r"F0.0/1@0: reads the weights"),
        (1, "F0.0/1@0", r"needs its forward|nothing was computed"),
        (1, "SEND_DW0.0/1@0", "missing SEND_DW0.0/1@0"),
        (0, "RECV_DW0.0/1@0", "ADD_DW0.0/1@0: nothing was received"),
        (1, "ZERO_DKV0.0@0", "adds to dK and dV"),
    ],
)
def test_planted_faults_are_found(stage: int, text: str, why: str) -> None:
    schedule = build_schedule(plan_with_msp(2, 4))
    check_schedule(schedule)
    with pytest.raises(ScheduleError, match=why):
        check_schedule(edited(schedule, stage, text))


def test_slices_that_wait_for_each_other_in_another_order_are_a_deadlock() -> None:
    schedule = build_schedule(plan_with_msp(3, 5))
    stages = [list(instructions) for instructions in schedule.stages]
    first, second = (parse_instruction(text) for text in ("F0.0/2@0", "F0.1/2@0"))
    places = [stages[2].index(each) for each in (first, second)]
    stages[2][places[0]], stages[2][places[1]] = second, first
    crossed = replace(schedule, stages=tuple(map(tuple, stages)))
    with pytest.raises(ScheduleError, match=r"reads its keys and values|deadlock"):
        check_schedule(crossed)


def test_the_solver_splits_where_it_pays_and_says_so() -> None:
    free = TINY.with_device_memory(None)
    plan, without = (
        solve(free, PROFILE, SolverOptions(msp=msp, stage_sharding="tensor"))
        for msp in (None, False)
    )
    assert plan.msp_splits
    assert not without.msp_splits
    assert plan.makespan_seconds < without.makespan_seconds
    assert plan.bubble_share < without.bubble_share
    assert "faster than the plan without MSP" in plan.reasons[-1]


def test_the_solver_does_not_split_over_slow_links() -> None:
    slow = replace(PROFILE, p2p_bytes_per_second=2e8)
    plan = solve(TINY.with_device_memory(None), slow, SolverOptions(sequence_parallel=1))
    assert not plan.msp_splits
    assert "slower with it" in plan.reasons[-1]
    forced = solve(TINY.with_device_memory(None), slow, SolverOptions(msp=True))
    assert forced.msp_splits


def test_the_solver_does_not_split_where_memory_is_short() -> None:
    resident = SolverOptions(sequence_parallel=1, kv_offload=False)
    plan = solve(TINY.with_device_memory(92 * MIB), PROFILE, resident)
    assert not plan.msp_splits
    assert plan.reasons[-1].startswith("no MSP: short by")
    with pytest.raises(Infeasible, match="no plan with MSP fits"):
        solve(TINY.with_device_memory(92 * MIB), PROFILE, replace(resident, msp=True))


def test_helpers_have_hosted_kv_where_the_device_is_too_small() -> None:
    workload = TINY.with_device_memory(92 * MIB)
    plan = solve(workload, PROFILE, SolverOptions())
    assert plan.msp_splits
    assert plan.kv_block_tokens
    without = solve(workload, PROFILE, SolverOptions(msp=False))
    assert plan.makespan_seconds < 0.98 * without.makespan_seconds
    ample = solve(TINY.with_device_memory(136 * MIB), PROFILE, SolverOptions())
    assert ample.msp_splits
    assert not ample.kv_block_tokens


@pytest.mark.parametrize(
    ("options", "sequences", "why"),
    [
        (SolverOptions(msp=True, pipeline_parallel=1), 1, "a single stage never waits"),
        (SolverOptions(msp=True, virtual_stages=1), 2, "fill the pipeline"),
    ],
)
def test_msp_that_is_not_possible_is_refused(
    options: SolverOptions, sequences: int, why: str
) -> None:
    workload = replace(TINY, sequences_per_step=sequences)
    if options.pipeline_parallel == 1:
        workload = replace(workload, cluster=replace(TINY.cluster, ranks_per_node=1))
    with pytest.raises(ValueError, match=why):
        solve(workload, PROFILE, options)


def test_helpers_send_no_messages_to_themselves() -> None:
    """Hidden states that stay on a rank need no message."""
    schedule = build_schedule(plan_with_msp(2, 4))
    sent = [str(each) for each in schedule.stages[1] if each.op is Op.SEND_F]
    assert sent == []
    assert "SEND_F0.0@0" in [str(each) for each in schedule.stages[0]]


def test_the_fill_is_split_where_the_drain_does_not_fit() -> None:
    """A helper that drains needs K and V of the whole sequence, one that fills of its start."""
    workload = TINY.with_device_memory(116 * MIB)
    options = SolverOptions(kv_offload=False)
    plan = solve(workload, PROFILE, options)
    assert plan.msp_splits
    assert all(msp_split.fills for msp_split in plan.msp_splits)
    assert plan.reasons[-1].startswith("MSP at the first end: simulated +")
    without = solve(workload, PROFILE, replace(options, msp=False))
    assert plan.makespan_seconds < without.makespan_seconds


def test_msp_is_weighed_for_more_degrees_than_the_best_without_msp() -> None:
    workload = TINY.with_device_memory(None)
    layouts = sorted(
        every_layout(workload, PROFILE, SolverOptions()), key=lambda layout: layout.least_seconds
    )
    alone = solve(
        workload, PROFILE, SolverOptions(virtual_stages=1, pipeline_parallel=2, msp=False)
    )
    split = with_msp(alone, layouts, _keep, None)
    assert split.plan.virtual_stages > alone.virtual_stages
    assert split.plan.msp_splits


def _keep(problem: StageProblem) -> StageDecisions:
    return uniform(problem, KEEP, lambda part, index: 0.0)
