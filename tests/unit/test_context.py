"""Context parallelism inside a stage: degrees, words, costs, and the plans that have it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.records.plan_record import flat_plan, plan_words, read_plan
from sppo.config.errors import Infeasible
from sppo.config.hardware import load_hardware
from sppo.config.models import MODELS
from sppo.config.sizes import MIB
from sppo.cost_model.collectives import context_collectives, step_collectives
from sppo.cost_model.times import block_seconds
from sppo.plan.layout import Degrees
from sppo.planner.layouts.degrees import context_degrees
from sppo.planner.options import SolverOptions
from sppo.planner.short_step import short_plan
from sppo.planner.solve import solve
from tests.unit.planning_cases import PROFILE, TINY

A100 = load_hardware("a100-80g")
GPT_7B = MODELS["gpt-7b"]
FEW_KV_HEADS = replace(
    TINY,
    model=replace(TINY.model, kv_heads=1),
    cluster=replace(TINY.cluster, ranks_per_node=2),
)


@pytest.mark.parametrize(
    ("options", "shards", "degrees"),
    [
        (SolverOptions(), 4, (1,)),
        (SolverOptions(), 8, (2,)),
        (SolverOptions(), 12, (3,)),
        (SolverOptions(context_parallel=1), 8, ()),
        (SolverOptions(context_parallel=4), 8, (4,)),
        (SolverOptions(context_parallel=3), 8, ()),
        (SolverOptions(stage_sharding="tensor"), 8, ()),
        (SolverOptions(solver="paper"), 8, ()),
    ],
)
def test_as_few_ranks_as_possible_have_the_same_heads(
    options: SolverOptions, shards: int, degrees: tuple[int, ...]
) -> None:
    """TINY has four heads."""
    assert context_degrees(TINY, options, shards) == degrees


def test_a_sequence_too_short_for_the_ranks_is_not_gathered() -> None:
    assert context_degrees(replace(TINY, sequence_tokens=64), SolverOptions(), 8) == ()
    many = replace(TINY.cluster, ranks_per_node=128)
    short = replace(TINY, sequence_tokens=1024, cluster=many)
    asked = SolverOptions(sequence_parallel=128, context_parallel=32)
    with pytest.raises(ValueError, match="1,024 tokens are too few for SP 128, 16 a rank"):
        solve(short, PROFILE, asked)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"context_parallel": 2, "kv_offload": True}, "keeps K and V on the device"),
        ({"context_parallel": 2, "msp": True}, "no MSP with context parallelism"),
        ({"context_parallel": 2, "solver": "paper"}, "take the heuristic solver"),
    ],
)
def test_what_context_parallelism_excludes_is_refused(
    options: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        SolverOptions(**options)  # type: ignore[arg-type]


def test_an_asked_degree_is_planned_under_a_memory_limit() -> None:
    limited = TINY.with_device_memory(136 * MIB)
    plan = solve(limited, PROFILE, SolverOptions(sequence_parallel=2, context_parallel=2))
    assert plan.degrees_words == "SP 2 (CP 2) x PP 1"
    assert max(stage.memory.device_peak for stage in plan.stages) <= 136 * MIB
    short = TINY.with_device_memory(20 * MIB)
    with pytest.raises(Infeasible, match="no plan fits"):
        solve(short, PROFILE, SolverOptions(sequence_parallel=2, context_parallel=2))


def test_a_degree_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="CP 3 does not divide SP 2; the nearest"):
        solve(TINY, PROFILE, SolverOptions(sequence_parallel=2, context_parallel=3))
    with pytest.raises(ValueError, match="hosted K and V need heads"):
        solve(FEW_KV_HEADS, PROFILE, SolverOptions(sequence_parallel=2, kv_offload=True, msp=False))


def test_messages_of_a_subsequence_grow_with_its_prefix() -> None:
    """K and V once forward; backward once more, and their gradients in float32."""
    timed = {"tokens": 65_536, "shards": 16, "context": 2}
    begin, late = (block_seconds(GPT_7B, A100, start=start, **timed) for start in (0, 131_072))
    silent = replace(A100, internode_bytes_per_second=1e20)
    none = block_seconds(GPT_7B, silent, start=0, **timed)
    moved = 2 * GPT_7B.kv_width * 65_536 * (2 - 1) / 16
    between = A100.internode_bytes_per_second
    assert between is not None
    rate = 1 / (1 / between - 1 / A100.collective_bytes_per_second)  # silent: that of a node
    assert begin.forward - none.forward == pytest.approx(2 * moved / rate)
    assert begin.backward - none.backward == pytest.approx(6 * moved / rate)
    silent_late = block_seconds(GPT_7B, silent, start=131_072, **timed)
    assert late.forward - silent_late.forward == pytest.approx(3 * 2 * moved / rate)


def test_the_solver_gathers_where_ranks_are_more_than_kv_heads() -> None:
    options = SolverOptions(sequence_parallel=2, subsequences=4)
    plan = solve(FEW_KV_HEADS, PROFILE, options)
    assert plan.degrees_words == "SP 2 (CP 2) x PP 1"
    assert (plan.tensor_parallel, plan.head_parallel, plan.weight_copies) == (1, 1, 2)
    gathered = context_collectives(plan, 0)
    assert gathered.calls > 0
    assert step_collectives(plan, 0).bytes > gathered.bytes
    values = flat_plan(plan)
    assert values["context_parallel"] == 2
    assert plan_words(values).startswith("PP1 SP2 (CP 2), N 4")
    assert read_plan(values) == plan
    assert short_plan(FEW_KV_HEADS, plan, PROFILE, 64).context_parallel == 2


def test_a_plan_without_it_is_written_as_before() -> None:
    plan = solve(TINY, PROFILE, SolverOptions(subsequences=4))
    assert plan.context_parallel == 1
    assert "context_parallel" not in flat_plan(plan)


def test_degrees_in_words() -> None:
    assert Degrees(32, 2, 1).words(2, 4) == "SP 32 (TP 4 x Ulysses 2 x CP 4) x PP 2"
    assert Degrees(8, 1, 1).words(1, 2) == "SP 8 (TP 4 x CP 2) x PP 1"
