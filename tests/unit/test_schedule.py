"""The checker accepts what the builder makes and finds planted faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sppo.config.models import gpt
from sppo.schedule.build import build_schedule
from sppo.schedule.check import check_schedule
from sppo.schedule.dependencies import Schedule, ScheduleError
from sppo.schedule.instructions import Instruction, Op, parse_instruction
from tests.numerics.pipelines import make_plan

MODEL = gpt("gpt-test", layers=8, hidden=32, heads=4, vocabulary=61)


def schedule_of(
    *,
    stages: int = 2,
    virtual_stages: int = 1,
    count: int = 4,
    share: float = 1.0,
    sequences: int = 1,
    ahead: int = 1,
) -> Schedule:
    plan = make_plan(
        MODEL,
        (8,) * count,
        stages=stages,
        virtual_stages=virtual_stages,
        share=share,
        sequences=sequences,
        head_alone=stages > 1 and virtual_stages > 1,
        mixed=sequences > 1 and virtual_stages == 1 and stages > 1,
        fetch_ahead=ahead,
    )
    return build_schedule(plan)


@given(
    degrees=st.sampled_from([(p, v) for p in range(1, 9) for v in range(1, 9) if p * v <= 8]),
    count=st.integers(1, 12),
    share=st.sampled_from((0.0, 0.5, 1.0)),
    sequences=st.integers(1, 3),
    ahead=st.integers(0, 2),
)
@settings(deadline=None)
def test_every_built_schedule_passes(
    degrees: tuple[int, int], count: int, share: float, sequences: int, ahead: int
) -> None:
    schedule = schedule_of(
        stages=degrees[0],
        virtual_stages=degrees[1],
        count=count,
        share=share,
        sequences=sequences,
        ahead=ahead,
    )
    check_schedule(schedule)
    forwards = [i for i in schedule.stages[0] if i.op is Op.FORWARD]
    head_alone = degrees[0] > 1 and degrees[1] > 1
    assert len(forwards) == count * sequences * (degrees[1] + head_alone)


def edit(schedule: Schedule, stage: int, change: Callable[[list[Instruction]], object]) -> Schedule:
    """The schedule with one stage's list changed in place."""
    stages = [list(instructions) for instructions in schedule.stages]
    change(stages[stage])
    return replace(schedule, stages=tuple(tuple(instructions) for instructions in stages))


def remove(*texts: str) -> Callable[[list[Instruction]], object]:
    def change(instructions: list[Instruction]) -> None:
        for text in texts:
            instructions.remove(parse_instruction(text))

    return change


def swap(first: str, second: str) -> Callable[[list[Instruction]], object]:
    def change(instructions: list[Instruction]) -> None:
        a = instructions.index(parse_instruction(first))
        b = instructions.index(parse_instruction(second))
        instructions[a], instructions[b] = instructions[b], instructions[a]

    return change


def late_reload(instructions: list[Instruction]) -> None:
    reload = parse_instruction("RELOAD0.1@0")
    instructions.remove(reload)
    instructions.insert(instructions.index(parse_instruction("B0.1@0")) + 1, reload)


FAULTS: list[tuple[str, int, Callable[[list[Instruction]], object], str]] = [
    ("dropped receive", 1, remove("RECV_F0.2@1"), "reads its input"),
    ("dropped send", 0, remove("SEND_F0.2@0"), "missing SEND_F0.2@0"),
    ("dropped backward", 0, remove("B0.0@0"), "missing B0.0@0"),
    ("read before reload", 0, late_reload, "no reload before it"),
    ("leak", 0, remove("RELOAD0.1@0", "B0.1@0", "B0.0@0"), "missing"),
    ("reloaded too early", 0, swap("OFFLOAD0.1@0", "RELOAD0.1@0"), "nothing lies in the host tier"),
    ("no clear", 0, remove("ZERO_DKV0.0@0"), "adds to dK and dV"),
    ("repeated", 0, lambda stage: stage.insert(3, parse_instruction("F0.0@0")), "repeated"),
    ("backward out of order", 0, swap("B0.3@0", "B0.2@0"), "reads its gradient|every later"),
    ("forward out of order", 0, swap("F0.1@0", "F0.2@0"), "reads its keys and values"),
    ("send before forward", 0, swap("SEND_F0.1@0", "F0.1@0"), "nothing was computed yet"),
    (
        "unknown subsequence",
        0,
        lambda stage: stage.append(parse_instruction("OFFLOAD0.9@0")),
        "no such",
    ),
]


@pytest.mark.parametrize(
    ("stage", "change", "why"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_a_planted_fault_is_found(
    stage: int, change: Callable[[list[Instruction]], object], why: str
) -> None:
    broken = edit(schedule_of(), stage, change)
    with pytest.raises(ScheduleError, match=why):
        check_schedule(broken)


def test_an_offload_without_a_reload_leaks() -> None:
    extra = parse_instruction("OFFLOAD0.3@0")
    broken = edit(schedule_of(), 0, lambda stage: stage.append(extra))
    with pytest.raises(ScheduleError, match=r"OFFLOAD0\.3@0 is never reloaded, it leaks"):
        check_schedule(broken)


def test_messages_of_a_pair_must_meet_in_order() -> None:
    crossed = edit(schedule_of(), 1, swap("RECV_F0.1@1", "RECV_F0.2@1"))
    with pytest.raises(ScheduleError, match=r"expects|reads its input"):
        check_schedule(crossed)


def test_a_deadlock_names_who_waits_where() -> None:
    def early_wait(stage: list[Instruction]) -> None:
        """Stage 0 runs its first backward before it sends its last hidden states."""
        send = parse_instruction("SEND_F0.3@0")
        stage.remove(send)
        stage.insert(stage.index(parse_instruction("B0.3@0")) + 1, send)

    with pytest.raises(ScheduleError, match=r"deadlock: stage 0 waits at B0\.3@0; stage 1"):
        check_schedule(edit(schedule_of(), 0, early_wait))


@given(st.sampled_from(list(Op)), st.tuples(*[st.integers(0, 10**6)] * 3))
def test_text_form_round_trips(op: Op, where: tuple[int, int, int]) -> None:
    instruction = Instruction(op, *where)
    assert parse_instruction(str(instruction)) == instruction


@pytest.mark.parametrize("text", ["F0", "X0.1@0", "F0.1", "F0.1@0junk", "F-1.0@0", " F0.1@0", ""])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write for example"):
        parse_instruction(text)
