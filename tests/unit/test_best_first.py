"""The search: quick steps are the simulator's, bounds are bounds, and nothing faster is missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.workloads import find
from sppo.config.errors import LayoutDoesNotFit
from sppo.config.hardware import Hardware, load_hardware
from sppo.config.sizes import GIB, MIB
from sppo.config.workload import Workload
from sppo.cost_model.plan_costs import simulate_plan
from sppo.plan.plan import Plan, Prediction
from sppo.planner.activations import policies
from sppo.planner.evaluate import decided_stages, plan_of, stage_problem, unpredicted_plan
from sppo.planner.layouts.candidates import every_layout
from sppo.planner.layouts.timed_layout import Ends, TimedLayout
from sppo.planner.options import SolverOptions
from sppo.planner.search.bounds import chains, compute_bound_ns, decided_bound_ns
from sppo.planner.search.least_added import least_added
from sppo.planner.search.quick_msp import decided_msp_ns
from sppo.planner.search.quick_step import quick_prediction, quick_step_ns
from sppo.planner.solve import solve
from tests.unit.planning_cases import PROFILE, TINY

FOUR = replace(TINY, cluster=replace(TINY.cluster, ranks_per_node=4))
OVERLAPPED = replace(PROFILE, overlapped_copies=True, d2h_bytes_per_second=1e9)
COUNTS = (1, 2, 5, 8, 16)


def layouts_of(workload: Workload, profile: Hardware, *, hosted: bool) -> Iterator[TimedLayout]:
    """Layouts of few N and all degrees and chunks."""
    for count in COUNTS:
        options = SolverOptions(subsequences=count, kv_offload=hosted)
        yield from every_layout(workload, profile, options)


def decided(layout: TimedLayout, policy: str) -> tuple[Plan, Prediction, int]:
    """A simulated plan, its quick prediction and the bound of its decisions in ns.

    Raises LayoutDoesNotFit.
    """
    choose = partial(policies.choose, policy=policy)
    plan = plan_of(layout, choose)
    problems = [stage_problem(layout, stage) for stage in range(layout.pipeline_parallel)]
    times = [problem.times(choose(problem)) for problem in problems]
    bound = max(decided_bound_ns(chain, times[chain.problem.stage]) for chain in chains(layout))
    return plan, quick_prediction(layout, times, quick_step_ns(layout, times)), bound


@settings(max_examples=12, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("hosted", [False, True])
@pytest.mark.parametrize("profile", [PROFILE, OVERLAPPED], ids=["synchronous", "overlapped"])
def test_quick_steps_are_the_simulators_and_bounds_are_below(
    data: st.DataObject, hosted: bool, profile: Hardware
) -> None:
    """For any degrees, chunks, N, sequences a step, limit and policy."""
    sequences = data.draw(st.sampled_from([1, 2, 3]), label="sequences")
    limit = data.draw(st.sampled_from([None, 60, 70, 80, 100, 140]), label="MiB")
    policy = data.draw(st.sampled_from(policies.POLICIES), label="policy")
    workload = replace(FOUR, sequences_per_step=sequences).with_device_memory(limit and limit * MIB)
    layout = data.draw(st.sampled_from([*layouts_of(workload, profile, hosted=hosted)]))
    try:
        plan, quick, bound = decided(layout, policy)
    except LayoutDoesNotFit:
        return
    assert quick == plan.prediction
    step_ns = round((plan.makespan_seconds - plan.reduction_seconds) * 1e9)
    assert compute_bound_ns(layout) <= bound <= step_ns
    if policy in ("auto", "lean", "no-offload", "full-offload", "paper"):
        for chain in chains(layout):
            added = least_added(chain.problem)
            assert added.device_short_bytes == added.host_short_bytes == 0, "this layout fits"
            assert chain.step_ns(added.ns) <= step_ns


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("profile", [PROFILE, OVERLAPPED], ids=["synchronous", "overlapped"])
def test_quick_steps_with_msp_are_the_simulators(data: st.DataObject, profile: Hardware) -> None:
    """For any degrees, chunks, N, sequences in turn, limit, policy and ends."""
    sequences = data.draw(st.sampled_from([1, 2]), label="sequences")
    limit = data.draw(st.sampled_from([None, 70, 80, 100, 140]), label="MiB")
    policy = data.draw(st.sampled_from(policies.POLICIES), label="policy")
    ends: Ends = data.draw(st.sampled_from(["fill", "both"]), label="ends")
    workload = replace(FOUR, sequences_per_step=sequences).with_device_memory(limit and limit * MIB)
    able = [each for each in layouts_of(workload, profile, hosted=False) if each.may_split]
    layout = data.draw(st.sampled_from(able)).with_msp(ends)
    try:
        stages = decided_stages(layout, partial(policies.choose, policy=policy))
    except LayoutDoesNotFit:
        return
    simulated = simulate_plan(unpredicted_plan(layout, stages), profile)
    assert decided_msp_ns(layout, stages) == simulated.makespan


@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["few N", "every N"]
)
@pytest.mark.parametrize(
    ("profile", "limit", "host"),
    [(PROFILE, 100, None), (OVERLAPPED, 92, 20), (OVERLAPPED, 120, None)],
)
def test_no_layout_is_faster_than_the_search(
    profile: Hardware, limit: int, host: int | None, every: bool
) -> None:
    """Brute force: layouts with the decisions of the policy, simulated."""
    workload = TINY.with_device_memory(limit * MIB)
    workload = replace(workload, host_memory_bytes=host and host * MIB)
    plan = solve(workload, profile, SolverOptions(msp=False))
    best = float("inf")
    for hosted in (False, True):
        layouts = layouts_of(workload, profile, hosted=hosted)
        if every:
            layouts = iter(every_layout(workload, profile, SolverOptions(kv_offload=hosted)))
        for layout in layouts:
            try:
                steps = plan_of(layout, partial(policies.choose, policy="auto"))
            except LayoutDoesNotFit:
                continue
            best = min(best, steps.makespan_seconds)
    assert plan.makespan_seconds <= best


def test_more_device_memory_never_gives_a_slower_plan() -> None:
    seconds = []
    for limit in (80, 88, 92, 100, 110, 125, 140, None):
        workload = TINY.with_device_memory(limit and limit * MIB)
        seconds.append(solve(workload, PROFILE, SolverOptions(msp=False)).makespan_seconds)
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > seconds[-1], "the least limit costs time"


@pytest.mark.soak
def test_more_memory_of_large_gpus_never_gives_a_slower_plan() -> None:
    big = find("gpt-7b-128k-8xa100")
    assert big.device_memory_bytes is not None
    steps = [
        solve(big.with_device_memory(limit), load_hardware("a100-80g")).makespan_seconds
        for limit in (60 * GIB, 68 * GIB, big.device_memory_bytes)
    ]
    assert steps == sorted(steps, reverse=True)


def test_the_place_of_k_and_v_is_part_of_the_search() -> None:
    """Hosted K and V win where a single subsequence fits with K and V on the device."""
    workload = find("gpt-1b-32k-1xh100")
    profile = load_hardware("h100-80g")
    both, resident, hosted = (
        solve(workload, profile, SolverOptions(kv_offload=kv)).makespan_seconds
        for kv in (None, False, True)
    )
    assert both == min(resident, hosted)


def test_the_peers_best_settings_are_among_the_plans() -> None:
    """One subsequence on one stage, attention's output and the block's input saved."""
    workload = find("gpt-7b-1m-32xa100")
    profile = load_hardware("a100-80g")
    options = SolverOptions(pipeline_parallel=1, subsequences=1, policy="lean")
    peer = solve(workload, profile, options)
    assert peer.subsequences == 1
    assert all("attention.output" not in part.recompute_units[0] for part in peer.parts)
    assert solve(workload, profile).makespan_seconds <= peer.makespan_seconds
