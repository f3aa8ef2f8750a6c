"""Weights of blocks in pieces: bytes, collectives, seconds, options and plans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.records.plan_record import flat_plan, plan_words, read_plan
from benchmarks.workloads import find
from sppo.config.hardware import load_hardware
from sppo.config.models import MODELS
from sppo.cost_model.collectives import replica_collectives, weight_collectives
from sppo.cost_model.times import block_seconds, gathered_of
from sppo.memory_model.model_state import state_bytes
from sppo.plan.parts import PartShape
from sppo.planner.layouts.candidates import weights_to_try
from sppo.planner.options import SolverOptions
from sppo.planner.short_step import short_plan
from sppo.planner.solve import solve
from tests.unit.planning_cases import PROFILE, TINY

A100 = load_hardware("a100-80g")
GPT_7B = MODELS["gpt-7b"]
TWO = replace(TINY, cluster=replace(TINY.cluster, ranks_per_node=2))

WHOLE = PartShape(model=GPT_7B, layers=range(8, 16), head=False, element_bytes=2, shards=8)
SHARDED = replace(WHOLE, ulysses=8, sharded_weights=True)


def test_a_rank_holds_its_pieces_and_two_blocks() -> None:
    weights, gradients, optimizer = state_bytes([SHARDED])
    block = 2 * 12 * GPT_7B.hidden**2
    vectors = 2 * SHARDED.elements.vectors
    assert weights == 8 * block // 8 + 2 * block + vectors
    assert gradients == 2 * weights
    assert optimizer == 6 * (8 * block + vectors) // 8
    assert weights < state_bytes([replace(SHARDED, sharded_weights=False)])[0]


def test_a_stage_of_one_block_has_one_buffer() -> None:
    one = replace(SHARDED, layers=range(8, 9))
    block = 2 * 12 * GPT_7B.hidden**2
    assert state_bytes([one])[0] == block // 8 + block + 2 * one.elements.vectors


def test_gathers_and_sums_cost_their_bytes_whatever_the_tokens() -> None:
    timed = {"start": 0, "shards": 8, "ulysses": 8}
    for tokens in (8_192, 65_536):
        alone = block_seconds(GPT_7B, A100, tokens=tokens, **timed)
        both = block_seconds(GPT_7B, A100, tokens=tokens, gathered=gathered_of(SHARDED), **timed)
        block = 2 * 12 * GPT_7B.hidden**2 * 7 / 8
        seconds = block / A100.collective_bytes_per_second
        assert both.forward - alone.forward == pytest.approx(seconds)
        assert both.backward - alone.backward == pytest.approx(3 * seconds), "sums in float32"
        assert both.head == alone.head


@pytest.mark.parametrize(
    ("options", "degrees", "choices"),
    [
        ({}, (1, 8, 32), (False, True)),
        ({}, (2, 4, 32), (False,)),
        ({}, (1, 1, 32), (False,)),
        ({}, (1, 2, 4), (False,)),
        ({}, (1, 2, 5), (False, True)),
        ({}, (1, 8, 2), (False,)),
        ({"weights": "sharded"}, (2, 4, 1), (True,)),
        ({"weights": "sharded"}, (8, 1, 32), ()),
        ({"weights": "whole"}, (1, 8, 32), (False,)),
        ({"msp": True}, (1, 8, 32), (False,)),
        ({"solver": "paper"}, (1, 2, 32), (False,)),
    ],
)
def test_pieces_are_tried_where_they_are_fewer_bytes_and_no_rank_divides_weights(
    options: dict[str, object], degrees: tuple[int, int, int], choices: tuple[bool, ...]
) -> None:
    """degrees: TP, ranks with the same weights, layers of a stage."""
    asked = SolverOptions(**options)  # type: ignore[arg-type]
    assert weights_to_try(asked, *degrees) == choices


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "sharded", "msp": True}, "no MSP with sharded weights"),
        ({"weights": "sharded", "solver": "paper"}, "take the heuristic solver"),
        ({"weights": "some"}, "unknown weights 'some': take one of whole, sharded, auto"),
    ],
)
def test_what_sharded_weights_exclude_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SolverOptions(**options)  # type: ignore[arg-type]


def test_ranks_without_a_copy_of_their_weights_are_named() -> None:
    asked = SolverOptions(weights="sharded", sequence_parallel=2, ulysses_parallel=1)
    with pytest.raises(ValueError, match="sharded weights need ranks with the same weights"):
        solve(TWO, PROFILE, asked)


def test_an_asked_plan_has_its_collectives_and_is_written() -> None:
    options = SolverOptions(
        weights="sharded", sequence_parallel=2, ulysses_parallel=2, subsequences=3
    )
    plan = solve(TWO, PROFILE, options)
    assert plan.sharded_weights
    gathered = weight_collectives(plan, 0)
    assert gathered.calls == 3 * 3 * TWO.model.layers
    whole = replace(plan, sharded_weights=False)
    assert replica_collectives(plan, 0).bytes < replica_collectives(whole, 0).bytes
    assert weight_collectives(whole, 0).calls == 0
    values = flat_plan(plan)
    assert values["sharded_weights"] is True
    assert plan_words(values).startswith("PP1 SP2 (Ulysses 2), sharded weights, N 3")
    assert read_plan(values) == plan
    assert "sharded_weights" not in flat_plan(whole)
    assert short_plan(TWO, plan, PROFILE, 64).sharded_weights


def test_the_solver_shards_the_weights_of_gpt_7b_at_1m_on_32_gpus() -> None:
    plan = solve(find("gpt-7b-1m-32xa100"), A100)
    assert plan.degrees_words == "SP 32 (Ulysses 32) x PP 1"
    assert plan.sharded_weights
    assert any(reason.startswith("weights of blocks in pieces") for reason in plan.reasons)
    whole = solve(find("gpt-7b-1m-32xa100"), A100, SolverOptions(weights="whole"))
    assert plan.makespan_seconds < whole.makespan_seconds


def test_where_everything_fits_pieces_save_nothing() -> None:
    plan = solve(TWO, PROFILE, SolverOptions(sequence_parallel=2, ulysses_parallel=2))
    assert not plan.sharded_weights


def test_a_plan_with_whole_weights_is_compared_with_cuts_of_whole_weights() -> None:
    """The search has both choices: 13B at 512K is a pipeline of all-to-alls without TP."""
    plan = solve(find("gpt-13b-512k-64xa100"), A100)
    assert (plan.tensor_parallel, plan.sharded_weights) == (1, False)
    starts = [reason.split(":")[0] for reason in plan.reasons]
    assert len(set(starts)) == len(starts)
    pieces = next(
        text for text in plan.reasons if text.startswith("no weights of blocks in pieces")
    )
    assert "enough layouts" not in pieces
