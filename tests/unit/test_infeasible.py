"""Plans that do not exist: what is short, at which layout, and the longest length that fits."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from _pytest.mark import ParameterSet

from benchmarks.workloads import of_flags
from sppo.config.errors import Infeasible, LayoutDoesNotFit
from sppo.config.hardware import load_hardware
from sppo.config.sizes import GIB, MIB, parse_tokens
from sppo.config.workload import Workload
from sppo.planner.activations.feasibility import require_host_room, require_some_decisions
from sppo.planner.activations.policies import choose
from sppo.planner.evaluate import stage_problem
from sppo.planner.layouts.partition import flops_balanced_cut
from sppo.planner.layouts.timed_layout import TimedLayout
from sppo.planner.longest import longest_tokens, round_down, words
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from tests.unit.planning_cases import PROFILE, RESIDENT, TINY, counted_calls

A100 = load_hardware("a100-80g")
LONG = of_flags(model="gpt-7b", seq="64M", gpus=128, hardware="a100-80g")


def named_length(error: Infeasible) -> int:
    match = re.search(r"the longest that fits has about (\S+) tokens$", str(error))
    assert match, error
    return parse_tokens(match[1])


def fits(workload: Workload, tokens: int, options: SolverOptions) -> bool:
    profile = load_hardware(workload.cluster.hardware)
    try:
        solve(replace(workload, sequence_tokens=tokens), profile, options)
    except Infeasible:
        return False
    return True


def further(workload: Workload, options: SolverOptions) -> ParameterSet:
    """A case of `tox -e soak`."""
    return pytest.param(workload, options, marks=pytest.mark.soak)


@pytest.mark.parametrize(
    ("workload", "options"),
    [
        further(LONG, SolverOptions(sequence_parallel=32, virtual_stages=1)),
        further(replace(LONG, host_memory_bytes=64 * GIB), replace(RESIDENT, sequence_parallel=8)),
        further(LONG, RESIDENT),
        further(LONG, SolverOptions(kv_offload=False, policy="lean", sequence_parallel=8)),
        further(LONG, SolverOptions(solver="paper", sequence_parallel=8)),
        further(
            replace(LONG, host_memory_bytes=8 * GIB),
            SolverOptions(policy="full-offload", stage_sharding="tensor"),
        ),
        (TINY.with_device_memory(50 * MIB), RESIDENT),
        (TINY.with_device_memory(60 * MIB), SolverOptions(kv_offload=False, subsequences=8)),
    ],
)
def test_the_longest_that_fits_fits_and_15_percent_more_does_not(
    workload: Workload, options: SolverOptions
) -> None:
    profile = load_hardware(workload.cluster.hardware)
    with pytest.raises(Infeasible) as refused:
        solve(workload, profile, options)
    longest = named_length(refused.value)
    assert longest == longest_tokens(workload, profile, options)
    assert longest < workload.sequence_tokens
    assert fits(workload, longest, options)
    more = round(1.15 * longest / 64) * 64  # what SP 32 can share
    assert not fits(workload, more, options)


def test_what_is_short_by_how_much_and_where() -> None:
    with pytest.raises(Infeasible) as refused:
        solve(LONG, A100, RESIDENT)
    expected = (
        r"no plan fits; the nearest, SP \d+( \(.*\))? x PP \d+, \d chunks? a stage, N \d+, is "
        r"short by [\d.]+ GiB of device memory for model state, KV and dKV alone\. Raise"
    )
    assert re.search(expected, str(refused.value))


def test_the_shortage_is_that_of_the_finest_cut() -> None:
    """With that much more memory it fits, and with a little less than that it does not."""
    workload = replace(TINY.with_device_memory(80 * MIB), host_memory_bytes=None)
    options = SolverOptions(kv_offload=False, subsequences=8, virtual_stages=1, policy="lean")
    options = replace(options, pipeline_parallel=2)
    with pytest.raises(Infeasible, match=r"SP 1 x PP 2, 1 chunk a stage, N 8, is short") as refused:
        solve(workload, PROFILE, options)
    match = re.search(r"short by ([\d.]+) MiB of device memory", str(refused.value))
    assert match
    short = round(float(match[1]) * MIB)
    with pytest.raises(Infeasible):
        solve(workload.with_device_memory(80 * MIB + short - MIB), PROFILE, options)


def test_an_undivided_sequence_may_fit_where_the_finest_cut_does_not() -> None:
    """It has no sums of dK and dV."""
    workload = of_flags(model="gpt-7b", seq="1536K", gpus=32, hardware="a100-80g")
    options = SolverOptions(kv_offload=False, pipeline_parallel=1, sequence_parallel=32)
    assert solve(workload, A100, options).subsequences == 1
    for count in (2, 16, 160):
        with pytest.raises(Infeasible):
            solve(workload, A100, replace(options, subsequences=count))
    longer = replace(workload, sequence_tokens=16 * workload.sequence_tokens)
    divided = longest_tokens(longer, A100, replace(options, subsequences=160))
    assert longest_tokens(longer, A100, options) > 1.1 * divided


def test_host_memory_is_named() -> None:
    starved = replace(TINY.with_device_memory(120 * MIB), host_memory_bytes=1 * MIB)
    with pytest.raises(Infeasible, match=r"short by .* of host memory"):
        solve(starved, PROFILE, SolverOptions(subsequences=8, policy="full-offload"))


def test_exact_says_infeasible_as_the_heuristic_does() -> None:
    options = SolverOptions(solver="exact", kv_offload=False)
    with pytest.raises(Infeasible, match=r"short by .* of device memory"):
        solve(TINY.with_device_memory(60 * MIB), PROFILE, options)


def test_no_length_fits_where_the_model_state_does_not() -> None:
    with pytest.raises(Infeasible, match="even a very short one does not fit"):
        solve(TINY.with_device_memory(8 * MIB), PROFILE)


@pytest.mark.soak
def test_an_infeasible_plan_is_refused_quickly() -> None:
    with counted_calls() as calls, pytest.raises(Infeasible):
        solve(LONG, A100)
    assert calls[0] < 9.5e6  # 3.7 s on a slow core


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (5_905_580, "5.6M"),
        (1_441_000, "1.37M"),
        (934_000, "912K"),
        (20_000, "19K"),
        (4_100, "4096"),
        (17, "16"),
    ],
)
def test_lengths_in_words_are_rounded_down(tokens: int, text: str) -> None:
    assert words(tokens) == text
    assert tokens / 1.07 < round_down(tokens) <= tokens


@pytest.mark.parametrize("limit", [100, 104, 110, 125])
@pytest.mark.parametrize("host", [1, 4, 10, 40])
@pytest.mark.parametrize("overlapped", [False, True])
def test_cheap_tests_agree_with_the_policy(limit: int, host: int, overlapped: bool) -> None:
    """No host room: no decisions. Some decisions by the coarse test: decisions by the policy."""
    workload = replace(TINY.with_device_memory(limit * MIB), host_memory_bytes=host * MIB)
    layout = TimedLayout(
        workload=workload,
        profile=replace(PROFILE, overlapped_copies=overlapped),
        sequence_parallel=1,
        pipeline_parallel=2,
        virtual_stages=1,
        group_subsequences=8,
        lengths_tokens=flops_balanced_cut(TINY.model, 4096, 8, alignment=16),
    )
    problem = stage_problem(layout, 1)

    def passes(test: object) -> bool:
        assert callable(test)
        try:
            test(problem)
        except LayoutDoesNotFit:
            return False
        return True

    chosen = passes(lambda stage: choose(stage, "auto"))
    assert chosen or not passes(require_some_decisions)
    assert passes(require_host_room) or not chosen
