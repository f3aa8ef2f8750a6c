"""Measured steps in turn: whose turn it is, and what a changing machine does to the table."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from benchmarks import workloads
from benchmarks.commands import arguments
from benchmarks.commands.arguments import UsageError
from benchmarks.commands.flags import Launches
from benchmarks.launch.rounds import one_round
from benchmarks.launch.rounds.one_round import Round
from benchmarks.launch.rounds.turns import Stopped, Turn, stop_all, take_turns
from benchmarks.records.claim import claim, to_repeat
from benchmarks.records.record import Record
from benchmarks.records.timing import relative_steps, timings
from benchmarks.rows.row import Configuration, Row
from tests.unit.records_factory import record
from tests.unit.timing_cases import BUSY, LABELS, QUIET, launch, machine

SLOW_HALF = (1.0, 1.0, 1.4, 1.4, 1.4)
"""A machine that changes its speed within a launch."""


def in_turn(
    medians: dict[str, float], speeds: tuple[float, ...] = SLOW_HALF, rounds: int = 3
) -> list[Record]:
    """Launches whose steps all have the speed of their turn."""
    return [
        msgspec.structs.replace(
            launch(system, number, [median * speed for speed in order], QUIET),
            round=f"round {number}",
        )
        for number, order in ((n, speeds if n % 2 else speeds[::-1]) for n in range(1, rounds + 1))
        for system, median in medians.items()
    ]


def row_of(records: list[Record], system: str) -> list[Record]:
    return [record for record in records if record.system == system]


def test_a_change_of_speed_within_launches_leaves_the_ratio() -> None:
    records = in_turn({"sppo": 1.0, "megatron": 1.5})
    judged = timings(records)
    assert {timing.verdict for timing in judged.values()} == {"steady"}
    ratio = claim(row_of(records, "megatron"), row_of(records, "sppo"), judged)
    assert (ratio.ratio, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))
    assert to_repeat(records) == []


def test_the_same_steps_without_turns_are_unsettled() -> None:
    records = [
        msgspec.structs.replace(record, round=None)
        for record in in_turn({"sppo": 1.0, "megatron": 1.5})
    ]
    assert {timing.verdict for timing in timings(records).values()} == {"unsettled"}


def test_the_kernel_beside_launches_in_turn_is_not_judged_but_other_load_is() -> None:
    records = in_turn({"sppo": 1.0, "megatron": 1.5})
    slow = machine(kernel_after_seconds=0.006)
    beside = [msgspec.structs.replace(one, machine_state=slow) for one in records[:2]]
    assert timings([*beside, *records[2:]])["SPPO"].verdict == "steady"
    beside = [msgspec.structs.replace(one, machine_state=BUSY) for one in records[:2]]
    assert timings([*beside, *records[2:]])["SPPO"].verdict == "noisy"


def test_further_rounds_of_some_rows_on_a_slower_machine_unsettle_nobody() -> None:
    """The further rounds have SPPO and one row, and all their steps take twice as long."""
    rows = {"sppo": 1.0, "megatron": 1.5, "deepspeed": 1.2}
    first = in_turn(rows, speeds=(1.0,) * 5, rounds=2)
    later = [
        msgspec.structs.replace(one, launch=one.launch + 2, round=f"later {one.launch}")
        for one in in_turn({"sppo": 1.0, "megatron": 1.5}, speeds=(2.0,) * 5, rounds=2)
    ]
    judged = timings([*first, *later])
    assert {timing.verdict for timing in judged.values()} == {"steady"}


def test_a_row_that_varies_by_itself_stays_unsettled() -> None:
    records = in_turn({"sppo": 1.0, "megatron": 1.5, "deepspeed": 1.2})
    wild = [
        launch("deepspeed", one.launch, [1.2 * (1 + 0.3 * (number % 2)) for number in range(5)])
        for one in row_of(records, "deepspeed")
    ]
    wild = [msgspec.structs.replace(one, round=f"round {one.launch}") for one in wild]
    judged = timings([*row_of(records, "sppo"), *row_of(records, "megatron"), *wild])
    assert judged["DeepSpeed Ulysses"].verdict == "unsettled"
    assert judged["SPPO"].verdict != "unsettled"


def test_launches_of_different_rounds_form_no_pair() -> None:
    """A resumed run launches the rows that were missing in a round of their own."""
    records = in_turn({"sppo": 1.0, "megatron": 1.5}, speeds=(1.0,) * 5)
    sppo = row_of(records, "sppo")
    others = [
        msgspec.structs.replace(one, round=f"later {one.launch}")
        for one in row_of(records, "megatron")
    ]
    answer = claim(others, sppo, timings([*others, *sppo]))
    assert (answer.ratio, answer.reason) == (
        None,
        "0 undisturbed pairs of launches are too few of 3",
    )
    assert relative_steps([*others, *sppo]) == {}, "nobody took turns with another row"


def turns_of(works: dict[str, Callable[[Turn], None]]) -> list[Turn]:
    def ends(name: str, work: Callable[[Turn], None]) -> Callable[[Turn], Record]:
        def run(turn: Turn) -> Record:
            work(turn)
            return record(row=name)

        return run

    return [Turn("a round", len(works), ends(name, work)) for name, work in works.items()]


def steps(log: list[str], name: str, count: int) -> Callable[[Turn], None]:
    def work(turn: Turn) -> None:
        for _ in range(count):
            turn.wait()
            log.append(name)

    return work


def test_turns_go_forwards_and_backwards_until_all_have_ended() -> None:
    log: list[str] = []
    turns = turns_of({name: steps(log, name, count) for name, count in (("a", 3), ("b", 2))})
    assert [turn.resume() for turn in turns] == [None, None]
    assert [record.row for _, record in take_turns(turns)] == ["b", "a"]
    assert log == ["a", "b", "b", "a", "a"]


def test_time_in_which_others_run_is_not_the_launch_s_own() -> None:
    seen: list[float] = []

    def work(turn: Turn) -> None:
        began = turn.clock()
        turn.wait()
        seen.append(turn.clock() - began)

    (turn,) = turns_of({"a": work})
    turn.resume()
    waited = time.monotonic()
    time.sleep(0.2)
    turn.resume()
    assert seen[0] < time.monotonic() - waited, "the pause is left out"


def test_an_error_of_one_launch_stops_the_others() -> None:
    ended: list[str] = []

    def waits(turn: Turn) -> None:
        try:
            turn.wait()
        except Stopped:
            ended.append("stopped")
            raise

    def fails(turn: Turn) -> None:
        turn.wait()
        raise OSError("disk full")

    turns = turns_of({"b": fails, "a": waits})
    for turn in turns:
        turn.resume()
    with pytest.raises(OSError, match="disk full"):
        list(take_turns(turns))
    stop_all(turns)
    assert ended == ["stopped"]


def points(*systems: str) -> list[Configuration]:
    return [
        Configuration(row=Row(label=LABELS[system], system=system, choosing="tuned"))
        for system in systems
    ]


def test_rows_without_room_beside_the_others_are_launched_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(one_round, "has_room", lambda row, waiting: waiting < 2)
    log: list[tuple[str, int]] = []
    notes: list[str] = []

    def launched(point: Configuration, number: int, turn: Turn | None = None) -> Record:
        if turn is not None:
            turn.wait()
        log.append((point.row.system, 0 if turn is None else 1))
        return record(row=point.row.label, launch=number)

    rows = points("megatron", "deepspeed", "sppo")
    round_ = Round(number=1, launch=launched, note=notes.append)
    assert [place for place, _, _ in round_.launches(rows, in_turns=True)] == [0, 1, 2]
    assert log == [("megatron", 1), ("deepspeed", 1), ("sppo", 0)]
    assert notes == ["not enough free memory for all rows at once: SPPO launched alone"]


def test_the_row_in_place_of_one_out_of_memory_takes_turns_with_the_others() -> None:
    log: list[tuple[str, int]] = []

    def launched(point: Configuration, number: int, turn: Turn | None = None) -> Record:
        status: Any = "oom" if point.row.system == "megatron" and number == 2 else "ok"
        if status == "ok" and turn is not None:
            turn.wait()
        log.append((point.row.system, number))
        return record(row=point.row.label, launch=number, status=status)

    def instead(point: Configuration) -> Configuration | None:
        return points("deepspeed")[0] if point.row.system == "megatron" else None

    rows = points("sppo", "megatron")
    round_ = Round(number=2, launch=launched, instead=instead)
    done = list(round_.launches(rows, in_turns=True))
    assert log == [("megatron", 2), ("deepspeed", 1), ("deepspeed", 2), ("sppo", 2)]
    assert [(place, one.launch) for place, _, one in done] == [(1, 2), (1, 1), (1, 2), (0, 2)]


def test_records_are_in_the_order_in_which_launches_began() -> None:
    """A row that is out of memory ends first, and keeps its place in the table."""

    def launched(point: Configuration, number: int, turn: Turn) -> Record:
        status: Any = "oom" if point.row.system == "deepspeed" else "ok"
        if status == "ok":
            turn.wait()
        return record(row=point.row.label, launch=number, status=status)

    round_ = Round(number=1, launch=launched)
    rows = points("megatron", "deepspeed", "sppo")
    done = [one for _, _, one in round_.launches(rows, in_turns=True)]
    assert done[0].row == LABELS["deepspeed"]
    ordered = [one.row for one in round_.in_order(done)]
    assert ordered == [LABELS[name] for name in ("megatron", "deepspeed", "sppo")]


def test_rows_take_turns_on_cpu_ranks_of_one_node_alone() -> None:
    tiny = workloads.find("tiny-cpu").cluster
    gpus = workloads.find("gpt-7b-128k-8xh100").cluster
    assert arguments.options(Launches(), tiny).in_turns
    assert not arguments.options(Launches(interleave="launches"), tiny).in_turns
    assert not arguments.options(Launches(), gpus).in_turns
    with pytest.raises(UsageError, match="--interleave steps needs CPU ranks on one node"):
        arguments.options(Launches(interleave="steps"), gpus)
