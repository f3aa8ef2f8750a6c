"""Simulated time of Megatron's interleaved 1F1B, computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.emulation.time.megatron_collectives import forward_share, use_of
from benchmarks.emulation.time.one_f_one_b import StageSeconds, order, stage_ends
from benchmarks.emulation.time.step_time import simulated_time
from tests.unit.test_emulated_time import (
    BY_HAND,
    FIRST,
    MEGATRON,
    SECOND,
    SUM_OF_NORMS,
    WORKLOAD,
    counts,
    known,
    report,
    traffic,
)


def test_interleaved_chunks_take_turns() -> None:
    """Megatron: groups of PP micro-batches pass every chunk; stage 0 is two forwards ahead."""
    words = [
        " ".join(f"{kind}{number}.{chunk}" for kind, number, chunk in tasks)
        for tasks in (order(stage, 2, 4, 2, 2) for stage in (0, 1))
    ]
    begin = "F0.0 F1.0 F0.1 "
    assert words[0] == (f"{begin}F1.1 F2.0 B0.1 F3.0 B1.1 F2.1 B0.0 F3.1 B1.0 B2.1 B3.1 B2.0 B3.0")
    assert words[1] == (f"{begin}B0.1 F1.1 B1.1 F2.0 B0.0 F3.0 B1.0 F2.1 B2.1 F3.1 B3.1 B2.0 B3.0")


def test_a_group_may_be_larger_than_the_pipeline() -> None:
    """Megatron's example: PP2 VP2 with groups of three of five micro-batches: 012 012 34 34."""
    tasks = order(1, 2, 5, 2, 3)
    assert "".join(str(number) for kind, number, _ in tasks if kind == "F") == "0120123434"
    assert "".join(kind for kind, _, _ in tasks) == "FFF" + "FB" * 7 + "BBB"
    chunk = StageSeconds(forward=0.5, backward=1.0)
    assert max(stage_ends([chunk] * 2, 5, 2, 3)) == pytest.approx(3 * 5 + 3 / 2)


@pytest.mark.parametrize("chunks", [1, 2, 4])
@pytest.mark.parametrize("micro_batches", [4, 8])
def test_interleaving_divides_the_idle_time(chunks: int, micro_batches: int) -> None:
    """(p - 1) (forward + backward) / v beside m (forward + backward) of work."""
    chunk = StageSeconds(forward=1.0 / chunks, backward=2.0 / chunks)
    ends = stage_ends([chunk] * 4, micro_batches, chunks)
    assert max(ends) == pytest.approx(3 * micro_batches + 3 * 3 / chunks)


def test_two_stages_of_two_chunks() -> None:
    """A micro-batch: forward 1 + 200/100 = 3 s, recomputed 3, backward 2 * (1 + 200/50) = 10; a
    chunk has half. Six sends of 2 s: four in forwards of stage 0 and two in its backwards, on
    stage 1 the other way. So stage 0 passes a chunk in (3.5, 7.5) and stage 1 in (2.5, 8.5).

    stage 0 waits for its last two backwards: B0.0 41-48.5, B1.0 49.5-57.
    """
    steps = [
        counts(
            matmul=1600,
            forward=0,
            backward=0,
            recomputed=400,
            traffic=[traffic("send", f"{rank} > {2 - rank}", 6, 36), SUM_OF_NORMS],
        )
        for rank in (0, 2)
    ]
    reports = [report(f"stage {index}", 2 * index, 2, step) for index, step in enumerate(steps)]
    settings = {**MEGATRON, "virtual_pipeline": 2}
    workload = replace(WORKLOAD, sequences_per_step=2)
    time = known(simulated_time("megatron", settings, workload, BY_HAND, reports))
    assert time.compute_seconds == pytest.approx(2 * 16)
    assert time.step_seconds == pytest.approx(57 + 1.5 + 1)
    assert time.step_seconds_if_hidden == pytest.approx(2 * 16 + 16 / 2 + 1)
    assert time.idle_share == pytest.approx(1 - (4 * 11 + 1.5 + 1) / 59.5)


@pytest.mark.parametrize(
    ("changes", "of_tensor", "of_context"),
    [
        ({"recompute": "none"}, 2.5, 3.0),
        ({"recompute": "none", "sequence_parallel": False}, 2.0, 3.0),
        ({"recompute": "full"}, 3.5, 4.0),
        ({"recompute": "block", "recompute_layers": 1}, 2.75, 3.25),
        ({"recompute": "save-attention"}, 3.5, 3.0),
        ({"recompute": "save-attention", "recompute_layers": 2}, 3.0, 3.0),
        ({"recompute": "modules", "recompute_modules": ["mlp", "layernorm"]}, 3.0, 3.0),
        ({"recompute": "modules", "recompute_modules": ["layernorm"]}, 2.5, 3.0),
        ({"recompute": "modules", "recompute_modules": ["core_attn"]}, 2.5, 4.0),
    ],
)
def test_collectives_of_a_layer_over_those_of_its_forward(
    changes: dict[str, Any], of_tensor: float, of_context: float
) -> None:
    """A chunk of four layers. CP gathers K and V once a forward, and again in the backward."""
    settings = {**MEGATRON, **changes}
    assert forward_share("tensor", settings, 4) == pytest.approx(1 / of_tensor)
    assert forward_share("context", settings, 4) == pytest.approx(1 / of_context)


def test_the_ranks_of_a_message_tell_its_use() -> None:
    """TP 2, CP 2, DP 2, PP 2 on 16 ranks."""
    settings = {**MEGATRON, "context_parallel": 2}
    groups = ([0, 1], [1, 3], [0, 4], [0, 2, 4, 6], [0, 8], [8, 0])
    operations = (*["all_gather"] * 4, *["send"] * 2)
    uses = [use_of(*sent, settings) for sent in zip(operations, groups, strict=True)]
    assert uses == ["tensor", "context", "once", "once", "forward", "backward"]


@pytest.mark.parametrize(("recompute", "sent_again"), [("none", 0.0), ("save-attention", 1.0)])
def test_saved_attention_repeats_collectives_without_products(
    recompute: str, sent_again: float
) -> None:
    """A micro-batch on stage 0 takes 5 s and 18 s, 3.5 s of collectives in both, 2 s of a send.

    The end waits for two of its forwards, three of its backwards, and 18 s of stage 1.
    """
    first = counts(matmul=1800, forward=60, backward=150, recomputed=0, traffic=FIRST.communication)
    reports = [report("stage 0", 0, 2, first), report("stage 1", 2, 2, SECOND)]
    settings = {**MEGATRON, "recompute": recompute}
    time = known(simulated_time("megatron-ours", settings, WORKLOAD, BY_HAND, reports))
    in_forward = 3.5 / (1 + 1.5 + sent_again)
    forward, backward = 5 + in_forward + 2, 18 + 3.5 - in_forward
    assert time.step_seconds == pytest.approx(2 * forward + 3 * backward + 18 + 1.5 + 1)
