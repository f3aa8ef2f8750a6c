"""Stages with all-to-alls: bytes, seconds, options and words of their plans."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.records.plan_record import flat_plan, plan_words, read_plan
from benchmarks.workloads import find
from sppo.config.hardware import load_hardware
from sppo.config.models import MODELS
from sppo.cost_model.attention_times import exchanged_seconds
from sppo.cost_model.links import copies_group
from sppo.cost_model.times import block_seconds, reduction_seconds
from sppo.memory_model.model_state import state_bytes
from sppo.plan.layout import Degrees
from sppo.plan.parts import PartShape, exchange_runs
from sppo.planner.layouts.degrees import ulysses_degrees
from sppo.planner.options import SolverOptions
from sppo.planner.short_step import short_plan
from sppo.planner.solve import solve

TINY = find("tiny-cpu")
PROFILE = load_hardware("cpu-2core")
A100 = load_hardware("a100-80g")
GPT_7B = MODELS["gpt-7b"]

SHAPE = PartShape(model=GPT_7B, layers=range(8), head=False, element_bytes=2, shards=8)
DIVIDED = replace(SHAPE, ulysses=4)
"""TP 2 x Ulysses 4."""


def test_weights_are_those_of_the_ranks_that_divide_them_and_all_else_is_that_of_sp() -> None:
    assert DIVIDED.parameters == replace(SHAPE, shards=2).parameters
    assert DIVIDED.kept_bytes(65_536) == SHAPE.kept_bytes(65_536)
    assert DIVIDED.kv_bytes(65_536, 2) == SHAPE.kv_bytes(65_536, 2)


def test_ranks_with_the_same_weights_share_the_optimizer_state() -> None:
    weights, gradients, optimizer = state_bytes([DIVIDED])
    assert gradients == 2 * weights
    assert optimizer == 6 * weights // 4, "two moments and a master, in float32, for a quarter"
    replicas = state_bytes([replace(DIVIDED, replicas=2)])
    assert replicas == (weights, gradients, optimizer // 2)


def test_all_to_alls_cost_their_bytes_on_the_link_that_the_stage_has() -> None:
    tokens = 65_536

    def exchanged(shards: int, rate: float) -> None:
        """Ulysses alone against the same compute without any exchange. rate: to all others."""
        seconds = block_seconds(GPT_7B, A100, start=0, tokens=tokens, shards=shards, ulysses=shards)
        silent = replace(A100, collective_bytes_per_second=1e30, internode_bytes_per_second=1e30)
        alone = block_seconds(GPT_7B, silent, start=0, tokens=tokens, shards=shards, ulysses=shards)
        width = GPT_7B.hidden * 2 * tokens / shards * (shards - 1) / shards
        assert seconds.forward - alone.forward == pytest.approx(4 * width / rate)
        sums = 2 * GPT_7B.heads / GPT_7B.hidden  # in float32
        assert seconds.backward - alone.backward == pytest.approx((4 + sums) * width / rate)
        assert seconds.head == alone.head

    exchanged(8, A100.collective_bytes_per_second)
    assert A100.internode_bytes_per_second is not None
    exchanged(16, A100.internode_bytes_per_second * 15 / 8)  # 8 of the 15 are on another node


def test_weights_divided_inside_a_node_stay_on_its_links_where_the_stage_is_wider() -> None:
    timed = {"start": 0, "tokens": 65_536}
    alone = block_seconds(GPT_7B, A100, **timed, shards=8)
    wide = block_seconds(GPT_7B, A100, start=0, tokens=2 * 65_536, shards=16, ulysses=2)
    assert wide.head == alone.head, "each half gathers its own tokens inside its node"


def test_the_sum_of_gradients_runs_once_a_step_over_the_copies() -> None:
    four, one = copies_group(8, 2, 1, 1), copies_group(8, 8, 1, 1)
    seconds = reduction_seconds(A100, elements=10**9, copies=four)
    assert seconds == pytest.approx(6e9 * 3 / 4 / A100.collective_bytes_per_second)
    assert reduction_seconds(A100, elements=10**9, copies=one) == 0


@pytest.mark.parametrize(
    ("options", "degrees"),
    [
        (SolverOptions(stage_sharding="tensor"), (1,)),
        (SolverOptions(stage_sharding="ulysses"), (2, 4, 8)),
        (SolverOptions(stage_sharding="auto"), (1, 2, 4, 8)),
        (SolverOptions(ulysses_parallel=4), (4,)),
        (SolverOptions(ulysses_parallel=3), ()),
        (SolverOptions(stage_sharding="auto", solver="paper"), (1,)),
    ],
)
def test_the_options_leave_these_degrees(options: SolverOptions, degrees: tuple[int, ...]) -> None:
    assert ulysses_degrees(options, 8) == degrees


def test_wrong_options_are_refused_with_a_cure() -> None:
    with pytest.raises(ValueError, match="take one of tensor, ulysses, auto"):
        SolverOptions(stage_sharding="heads")
    with pytest.raises(ValueError, match="take the heuristic solver"):
        SolverOptions(solver="paper", ulysses_parallel=2)
    with pytest.raises(ValueError, match="Ulysses 2 does not divide SP 1: take a divisor"):
        solve(TINY, PROFILE, SolverOptions(sequence_parallel=1, ulysses_parallel=2))


def test_a_plan_says_how_its_stages_are_divided_and_an_old_one_loads() -> None:
    options = SolverOptions(sequence_parallel=2, stage_sharding="ulysses", subsequences=4)
    plan = solve(TINY, PROFILE, options)
    assert plan.degrees_words == "SP 2 (Ulysses 2) x PP 1"
    assert (plan.tensor_parallel, plan.weight_copies) == (1, 2)
    values = flat_plan(plan)
    assert plan_words(values).startswith("PP1 SP2 (Ulysses 2), N 4")
    assert read_plan(values) == plan
    old = read_plan({name: value for name, value in values.items() if "ulysses" not in name})
    assert old == replace(plan, ulysses_parallel=1)
    short = short_plan(TINY, plan, PROFILE, 64)
    assert short.ulysses_parallel == 2


def test_degrees_in_words() -> None:
    assert Degrees(8, 4, 1).words(4) == "SP 8 (TP 2 x Ulysses 4) x PP 4"
    assert Degrees(8, 4, 2).words(8) == "SP 8 (Ulysses 8) x PP 4 x DP 2"
    assert Degrees(8, 4, 1).words() == "SP 8 x PP 4"


@given(rows=st.integers(1, 300), pieces=st.integers(1, 12))
def test_runs_cover_all_rows_and_none_is_empty(rows: int, pieces: int) -> None:
    runs = exchange_runs(rows, pieces)
    assert len(runs) == min(rows, pieces)
    assert [row for run in runs for row in range(rows)[run]] == list(range(rows))
    assert all(run.stop > run.start for run in runs)


@pytest.mark.parametrize(
    ("arriving", "computes", "leaving", "seconds"),
    [
        ([3.0], [10.0], [1.0], 14.0),
        ([1.0, 7.0], [20.0, 90.0], [1.0, 7.0], 1.0 + 20.0 + 90.0 + 7.0),  # the rest is hidden
        ([1.0, 7.0], [2.0, 90.0], [1.0, 7.0], 8.0 + 90.0 + 7.0),  # the second piece comes late
        ([1.0, 1.0, 1.0], [5.0, 5.0, 5.0], [9.0, 9.0, 9.0], 1.0 + 5.0 + 9.0 + 1.0 + 9.0 + 9.0),
    ],
)
def test_the_first_and_the_last_exchange_of_pieces_are_not_hidden(
    arriving: list[float], computes: list[float], leaving: list[float], seconds: float
) -> None:
    assert exchanged_seconds(arriving, computes, leaving) == pytest.approx(seconds)


@pytest.mark.parametrize("wrong", [0, -1, 65])
def test_pieces_have_bounds(wrong: int) -> None:
    with pytest.raises(ValueError, match="it must be between 1 and 64"):
        SolverOptions(exchange_pieces=wrong)


def test_pieces_without_all_to_alls_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="all-to-alls in pieces need --ulysses-parallel 2"):
        solve(TINY, PROFILE, SolverOptions(exchange_pieces=2, pipeline_parallel=2))


def test_pieces_are_taken_where_copies_overlap_compute_and_never_on_a_cpu() -> None:
    million = find("gpt-7b-1m-32xa100")
    plan = solve(million, A100, SolverOptions())
    assert (plan.exchange_pieces, plan.subsequences) == (2, 1)
    at_once = solve(million, A100, SolverOptions(exchange_pieces=1))
    assert plan.makespan_seconds < at_once.makespan_seconds
    tiny = solve(TINY, PROFILE, SolverOptions(stage_sharding="ulysses"))
    assert tiny.exchange_pieces == 1
