"""The engine says what it does before it does it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.worker.weights import initial_weights
from sppo.comm.in_process import connect_threads, run_together
from sppo.config.models import gpt
from sppo.schedule.dependencies import needed_receives
from sppo.schedule.instructions import RECEIVES, SENDS
from tests.numerics.pipelines import build_engine, make_plan

MODEL = gpt("gpt-test", layers=4, hidden=32, heads=4, vocabulary=61)


@pytest.mark.parametrize("msp", [False, True], ids=["plain", "msp"])
def test_every_instruction_and_every_wait_is_noted_in_order(msp: bool) -> None:
    plan = make_plan(MODEL, (5, 4, 3), stages=2, msp=msp)
    weights, ranks = initial_weights(MODEL, 3, torch.float64), connect_threads(plan)
    engines = [build_engine(plan, weights, torch.float64, one) for one in ranks]
    said: list[list[str]] = [[], []]
    for engine, notes in zip(engines, said, strict=True):
        engine.stage.context = replace(engine.stage.context, note=notes.append)
    tokens = torch.zeros(1, 13, dtype=torch.int64)
    run_together(ranks, lambda rank: engines[rank].run(tokens, 1.0))
    for number, (engine, notes) in enumerate(zip(engines, said, strict=True)):
        wanted = []
        for one in engine.schedule.stages[number]:
            for receive in needed_receives(engine.schedule, one):
                assert receive.op in RECEIVES
                wanted.append(f"stage {number}, waits for {receive}")
            words = f"waits to send {one}" if one.op in SENDS else str(one)
            wanted.append(f"stage {number}, {words}")
        assert notes[:-1] == wanted
        assert notes[-1] == f"stage {number}, at the schedule's end, waits for the other stages"


def test_a_failing_instruction_is_the_last_one_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(MODEL, (5, 4), stages=1)
    (alone,) = connect_threads(plan)
    engine = build_engine(plan, initial_weights(MODEL, 3, torch.float64), torch.float64, alone)
    notes: list[str] = []
    engine.stage.context = replace(engine.stage.context, note=notes.append)

    def broken(*arguments: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(engine.stage.part(0, 1), "backward", broken)
    with pytest.raises(ValueError, match="broken"):
        engine.run(torch.zeros(1, 10, dtype=torch.int64), 1.0)
    assert notes[-1] == "stage 0, B0.1@0"
