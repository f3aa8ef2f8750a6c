"""The three solvers: limits, options and refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.workloads import of_flags
from sppo.config.errors import NotSupported
from sppo.config.hardware import load_hardware
from sppo.config.sizes import MIB, format_bytes
from sppo.planner.options import SolverOptions
from sppo.planner.solve import solve
from tests.unit.planning_cases import PROFILE, TINY, counted_calls


def test_a_single_stage_gets_equal_pieces_and_a_pipeline_balanced_ones() -> None:
    alone = replace(TINY, cluster=replace(TINY.cluster, ranks_per_node=1))
    lengths = solve(alone, PROFILE, SolverOptions(subsequences=8)).lengths_tokens
    assert set(lengths) == {512}
    lengths = solve(
        TINY, PROFILE, SolverOptions(subsequences=8, sequence_parallel=1)
    ).lengths_tokens
    assert lengths[0] > 2 * lengths[-1]


def test_solver_fits_the_limit_by_the_cheapest_decisions() -> None:
    options = SolverOptions(msp=False, sequence_parallel=1, kv_offload=False)
    free = solve(TINY, PROFILE, options)
    options = replace(  # else another layout needs less memory
        options, virtual_stages=free.virtual_stages, subsequences=free.subsequences
    )
    peak = max(stage.memory.device_peak for stage in free.stages)
    assert all(stage.memory.host == 0 for stage in free.stages)
    limit = peak - 20 * MIB
    tight = solve(TINY.with_device_memory(limit), PROFILE, options)
    assert max(stage.memory.device_peak for stage in tight.stages) <= limit
    assert any(any((*p.offload_units, *p.recompute_units)) for p in tight.parts)
    assert tight.makespan_seconds >= free.makespan_seconds
    (memory,) = [reason for reason in tight.reasons if reason.startswith("device limit")]
    assert f"keeping all saved tensors would take {format_bytes(peak)}" in memory


def test_the_papers_heuristic_says_what_its_memory_model_misses() -> None:
    plan = solve(TINY.with_device_memory(136 * MIB), PROFILE, SolverOptions(solver="paper"))
    assert plan.virtual_stages == 1
    assert not any(any(part.recompute_units) for part in plan.parts)
    assert any("over the limit" in reason for reason in plan.reasons)


def test_layouts_that_do_not_fill_the_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"PP 3 does not fill 2 ranks; .* is SP 1 x PP 2"):
        solve(TINY, PROFILE, SolverOptions(pipeline_parallel=3))
    with pytest.raises(ValueError, match=r"SP 3 does not fill 2 ranks; .* is SP 2 x PP 1"):
        solve(TINY, PROFILE, SolverOptions(sequence_parallel=3))
    with pytest.raises(ValueError, match=r"1 sequences a step do not divide over DP 2; "):
        solve(TINY, PROFILE, SolverOptions(data_parallel=2))
    many = replace(TINY, cluster=replace(TINY.cluster, ranks_per_node=64))
    with pytest.raises(ValueError, match=r"gpt-tiny fills 16 of them at most, as SP 4 x PP 4"):
        solve(many, PROFILE, SolverOptions(context_parallel=1))


@pytest.mark.parametrize(
    ("changes", "shards", "reason"),
    [
        ({"heads": 6, "kv_heads": 6, "hidden": 252}, 4, "6 query heads do not divide over SP 4"),
        ({"kv_heads": 2}, 4, "2 KV heads do not divide over SP 4"),
        ({"ffn": 1022}, 4, "1,022 MLP columns do not divide over SP 4"),
        ({"vocabulary": 254}, 4, "254 vocabulary entries do not divide over SP 4"),
    ],
)
def test_what_cannot_be_shared_is_named_with_the_nearest_layout(
    changes: dict[str, int], shards: int, reason: str
) -> None:
    model = replace(TINY.model, **changes)
    work = replace(TINY, model=model, cluster=replace(TINY.cluster, ranks_per_node=4))
    with pytest.raises(ValueError, match=rf"{reason}; the nearest .* is SP 2 x PP 2"):
        solve(work, PROFILE, SolverOptions(sequence_parallel=shards, context_parallel=1))


def test_replicas_are_planned_where_there_are_sequences_for_them() -> None:
    work = replace(TINY, sequences_per_step=4).with_device_memory(None)
    apart = solve(work, PROFILE, SolverOptions(data_parallel=2))
    together = solve(work, PROFILE, SolverOptions(data_parallel=1))
    chosen = solve(work, PROFILE)
    assert apart.sequences == 2
    assert chosen.makespan_seconds == min(apart.makespan_seconds, together.makespan_seconds)
    state = [plan.stages[0].memory.optimizer for plan in (apart, together)]
    assert state[0] == pytest.approx(state[1], rel=0.1), "half of twice the weights"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"policy": "fast"}, "unknown policy 'fast': take one of auto"),
        ({"cut": "random"}, "unknown cut"),
        ({"solver": "oracle"}, "unknown solver"),
        ({"solver": "exact", "policy": "lean"}, "the exact solver decides"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SolverOptions(**options)


def test_profiles_are_checked() -> None:
    with pytest.raises(NotSupported, match=r"there are: .*cpu-2core"):
        load_hardware("abacus")
    with pytest.raises(ValueError, match=r"> 0\.0 - at `\$\.d2h_bytes_per_second`"):
        replace(PROFILE, d2h_bytes_per_second=0.0)
    with pytest.raises(ValueError, match=r"length >= 1 - at `\$\.rates`"):
        replace(PROFILE, rates=())


@pytest.mark.soak
def test_four_thousand_ranks_are_planned_or_refused_quickly() -> None:
    profile, most = load_hardware("a100-80g"), r"gpt-7b fills 1,024 of them at most, as SP 32 x PP"
    heads = SolverOptions(context_parallel=1)
    small = of_flags(model="gpt-7b", seq="4M", gpus=4096, hardware="a100-80g")
    with counted_calls() as calls:
        plan = solve(of_flags(model="gpt-65b", seq="4M", gpus=4096, hardware="a100-80g"), profile)
        with pytest.raises(ValueError, match=most + " 32"):
            solve(small, profile, heads)
    assert solve(small, profile).context_parallel > 1
    assert plan.sequence_parallel * plan.pipeline_parallel == 4096
    assert calls[0] < 13e6  # 5 s on a slow core
