"""The engine notes every instruction and every wait before it begins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads, run_together
from sppo.config.models import gpt
from sppo.schedule.dependencies import needed_receives
from sppo.schedule.instructions import RECEIVES, SENDS
from tests.numerics.pipelines import engine_of, make_plan

MODEL = gpt("gpt-test", layers=4, hidden=32, heads=4, vocabulary=61)


@pytest.mark.parametrize("msp", [False, True], ids=["plain", "msp"])
def test_every_instruction_and_every_wait_is_noted_in_order(msp: bool) -> None:
    plan = make_plan(MODEL, (5, 4, 3), stages=2, msp=msp)
    weights, ranks = initial_weights(MODEL, 3, torch.float64), connect_threads(plan)
    engines = [engine_of(plan, weights, torch.float64, each) for each in ranks]
    rank_notes: list[list[str]] = [[], []]
    for engine, notes in zip(engines, rank_notes, strict=True):
        engine.stage.context = replace(engine.stage.context, note=notes.append)
    tokens = torch.zeros(1, 13, dtype=torch.int64)
    run_together(ranks, lambda rank: engines[rank].run(tokens, 1.0))
    for number, (engine, notes) in enumerate(zip(engines, rank_notes, strict=True)):
        expected = []
        for instruction in engine.schedule.stages[number]:
            for receive in needed_receives(engine.schedule, instruction):
                assert receive.op in RECEIVES
                expected.append(f"stage {number}, waits for {receive}")
            waits = "waits to send " if instruction.op in SENDS else ""
            expected.append(f"stage {number}, {waits}{instruction}")
        assert notes[:-1] == expected
        assert notes[-1] == f"stage {number}, at the schedule's end, waits for the other stages"


def test_a_failing_instruction_is_the_last_one_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(MODEL, (5, 4), stages=1)
    (alone,) = connect_threads(plan)
    engine = engine_of(plan, initial_weights(MODEL, 3, torch.float64), torch.float64, alone)
    notes: list[str] = []
    engine.stage.context = replace(engine.stage.context, note=notes.append)

    def broken(*arguments: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(engine.stage.part(0, 1), "backward", broken)
    with pytest.raises(ValueError, match="broken"):
        engine.run(torch.zeros(1, 10, dtype=torch.int64), 1.0)
    assert notes[-1] == "stage 0, B0.1@0"
