"""Reasons: each sentence is true of the plan at hand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks.workloads import find
from sppo.config.hardware import load_hardware
from sppo.config.sizes import MIB
from sppo.config.workload import Workload
from sppo.plan.plan import Plan
from sppo.planner.layouts.candidates import every_layout
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve

TINY = find("tiny-cpu")
PROFILE = load_hardware("cpu-2core")
RESIDENT = SolverOptions(kv_offload=False, stage_sharding="tensor", context_parallel=1, msp=False)


def reason(plan: Plan, start: str) -> str:
    (sentence,) = [text for text in plan.reasons if text.startswith(start)]
    return sentence


def seconds_of(workload: Workload, options: SolverOptions) -> float:
    profile = load_hardware(workload.cluster.hardware)
    return min(layout.least_seconds for layout in every_layout(workload, profile, options))


def test_the_next_best_degrees_and_how_much_slower() -> None:
    workload = find("gpt-7b-4m-128xa100")
    plan = solve(workload, load_hardware("a100-80g"), RESIDENT)
    degrees = f"SP {plan.sequence_parallel} x PP {plan.pipeline_parallel}"
    text = reason(plan, f"{degrees}: ")
    match = re.search(r"next best degrees, SP (\d+) x PP (\d+), need ([\d.]+) s of compute", text)
    assert match
    shards, stages = int(match[1]), int(match[2])
    assert (shards, stages) != (plan.sequence_parallel, plan.pipeline_parallel)
    other = seconds_of(workload, replace(RESIDENT, sequence_parallel=shards))
    chosen = seconds_of(workload, replace(RESIDENT, sequence_parallel=plan.sequence_parallel))
    assert float(match[3]) == pytest.approx(other, abs=1e-3)
    assert f"against {chosen:.3f} s ({other / chosen - 1:+.1%})" in text
    for more in (2, 4, 16, 32):
        if more not in (shards, plan.sequence_parallel) and 128 // more <= 32:
            assert seconds_of(workload, replace(RESIDENT, sequence_parallel=more)) >= other


def test_only_one_layout_was_allowed() -> None:
    options = SolverOptions(pipeline_parallel=2, subsequences=6, virtual_stages=1, msp=False)
    plan = solve(TINY.with_device_memory(None), PROFILE, options)
    assert reason(plan, "SP 1 x PP 2: ") == "SP 1 x PP 2: no other degrees were allowed"
    assert reason(plan, "N 6: ").endswith("no other N was allowed")
    assert not [text for text in plan.reasons if "chunk a stage: with" in text or "cap" in text]


def test_the_neighbours_of_n_are_named_with_their_simulated_time() -> None:
    options = SolverOptions(pipeline_parallel=2, virtual_stages=1, msp=False)
    plan = solve(TINY, PROFILE, options)
    text = reason(plan, f"N {plan.subsequences}: ")
    others = re.findall(r"N (\d+) has [^(]+\(([^)]+)\)", text)
    assert len(others) == 2
    for count, verdict in others:
        match = re.fullmatch(r"(simulated|at least) ([\d.]+)% slower", verdict)
        assert match, verdict
        fixed = replace(options, subsequences=int(count), kv_offload=False)
        seconds = solve(TINY, PROFILE, fixed).makespan_seconds
        slower = 100 * (seconds / plan.makespan_seconds - 1)
        if match[1] == "simulated":
            assert slower == pytest.approx(float(match[2]), abs=0.01)
        assert slower >= float(match[2]) - 0.01


def test_a_cap_is_named_both_ways() -> None:
    workload = find("gpt-7b-4m-128xa100")
    profile = load_hardware("a100-80g")
    plan = solve(workload, profile, RESIDENT)
    capped = any(text.startswith("lengths are capped at") for text in plan.reasons)
    plain = any(text.startswith("early lengths are not capped") for text in plan.reasons)
    assert capped != plain
    if capped:
        assert reason(plan, f"lengths are capped at {max(plan.lengths_tokens):,} tokens")
    else:
        assert max(plan.lengths_tokens) > 2 * workload.sequence_tokens / plan.subsequences


def test_what_memory_forced() -> None:
    free = solve(TINY.with_device_memory(None), PROFILE)
    assert "nothing is offloaded or recomputed" in reason(free, "no device limit")
    roomy = solve(TINY.with_device_memory(1024 * MIB), PROFILE)
    assert "which fits; nothing is offloaded or recomputed" in reason(roomy, "device limit")
    slow_memory = replace(PROFILE, memory_bytes_per_second=1e8)
    offloaded = solve(TINY.with_device_memory(120 * MIB), slow_memory, RESIDENT)
    assert "of the saved bytes of a subsequence are offloaded; the" in reason(
        offloaded, "device limit"
    )
    assert "recomputed" not in reason(offloaded, "device limit")
    slow_link = replace(PROFILE, d2h_bytes_per_second=1e8, h2d_bytes_per_second=1e8)
    recomputed = solve(TINY.with_device_memory(120 * MIB), slow_link, RESIDENT)
    assert re.search(
        r"; norm1.output, .* are recomputed \([\d.]+ s", reason(recomputed, "device limit")
    )
    assert not [text for text in recomputed.reasons if "copies" in text]


def test_hosted_k_and_v_are_named() -> None:
    options = SolverOptions(kv_offload=True)
    plan = solve(TINY, PROFILE, options)
    assert f"blocks of {plan.kv_block_tokens:,} tokens" in reason(plan, "K, V and their gradients")


def test_copies_exposed_hidden_or_synchronous() -> None:
    options = SolverOptions(
        policy="full-offload", subsequences=8, virtual_stages=1, pipeline_parallel=2
    )
    workload = TINY.with_device_memory(None)
    reason(solve(workload, PROFILE, options), "copies are synchronous on this hardware")
    quick = replace(
        PROFILE, overlapped_copies=True, d2h_bytes_per_second=1e12, h2d_bytes_per_second=1e12
    )
    assert reason(solve(workload, quick, options), "every copy is shorter")
    slow = replace(quick, d2h_bytes_per_second=1e8)
    text = reason(solve(workload, slow, options), "copies of subsequences 0 .. 6 are longer")
    exposed = float(re.search(r"is ([\d.]+) s in all", text)[1])  # type: ignore[index]
    halved = replace(slow, d2h_bytes_per_second=5e7)
    text = reason(solve(workload, halved, options), "copies of subsequences 0 .. 6 are longer")
    assert float(re.search(r"is ([\d.]+) s in all", text)[1]) > 2 * exposed  # type: ignore[index]


def test_layouts_that_do_not_fit_are_named() -> None:
    plan = solve(TINY.with_device_memory(80 * MIB), PROFILE, RESIDENT)
    assert plan.rejected
    assert all(
        re.match(r"SP \d+ x PP \d+, .* short of|and \d+ more", text) for text in plan.rejected
    )


@pytest.mark.parametrize("name", ["tiny-cpu", "gpt-7b-1m-32xa100"])
def test_the_estimate_is_near_the_simulated_step(name: str) -> None:
    workload = find(name).with_device_memory(None)
    options = replace(RESIDENT, msp=False)
    plan = solve(workload, load_hardware(workload.cluster.hardware), options)
    fixed = replace(
        RESIDENT,
        sequence_parallel=plan.sequence_parallel,
        virtual_stages=plan.virtual_stages,
        subsequences=plan.subsequences,
    )
    assert seconds_of(workload, fixed) == pytest.approx(plan.makespan_seconds, rel=0.01)
