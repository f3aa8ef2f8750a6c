"""What a rank notes is what others read."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.launch.ranks import outcome as verdict
from benchmarks.launch.ranks import processes
from benchmarks.worker.heartbeat import (
    NOTE_BYTES,
    STOPPED,
    Heartbeat,
    Note,
    file_name,
    hang_reason,
    mark_stopped,
    read_note,
    read_notes,
)

SECOND_NS = 1_000_000_000
MEASURED_NS = 100 * SECOND_NS


def ranks_at(folder: Path, *doings: str, phase: str = "measured") -> None:
    for rank, doing in enumerate(doings):
        where = Heartbeat(rank, folder)
        where.enter(phase)
        where.note(doing)


def test_the_last_note_is_read_and_a_shorter_one_leaves_nothing_of_a_longer(tmp_path: Path) -> None:
    where = Heartbeat(3, tmp_path)
    path = tmp_path / file_name(3)
    note = read_note(path)
    assert note is not None
    assert str(note) == "during set-up"
    before_ns = time.time_ns()
    where.enter("accounted")
    where.note("stage 1, waits for RECV_F0.3@1")
    where.note("stage 1, F0.3@1")
    note = read_note(path)
    assert note is not None
    assert str(note) == "in the accounted step: stage 1, F0.3@1"
    assert before_ns <= note.time_ns <= time.time_ns()
    assert not note.waits
    assert path.stat().st_size == NOTE_BYTES


@pytest.mark.parametrize("doing", ["x" * 1_000, "é" * 1_000])
def test_a_note_that_is_too_long_is_cut(tmp_path: Path, doing: str) -> None:
    Heartbeat(0, tmp_path).note(doing)
    note = read_note(tmp_path / file_name(0))
    assert note is not None
    assert note.doing.startswith(doing[:100])
    assert (tmp_path / file_name(0)).stat().st_size == NOTE_BYTES


@pytest.mark.parametrize(
    "content", [b"", b" " * NOTE_BYTES, b"\xff\x00 measured\nF", b"12\nF0.0@0"]
)
def test_half_a_note_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / file_name(0)).write_bytes(content)
    assert read_notes(tmp_path, 2) == [None, None]


def note(doing: str, age_seconds: float = 14) -> Note:
    return Note(time_ns=MEASURED_NS - int(age_seconds * SECOND_NS), phase="measured", doing=doing)


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        (
            [note("stage 0, waits for RECV_B0.2@0"), note("stage 1, F0.3@1")],
            "rank 1 hung in the measured step: stage 1, F0.3@1 (rank 0 waits for RECV_B0.2@0; "
            "no progress for 14 s)",
        ),
        (
            [note("waits for all ranks"), None],
            "rank 1 hung before its first note (rank 0 waits for all ranks; no progress for 14 s)",
        ),
        (
            [note("stage 0, waits for RECV_B0.2@0"), note("stage 1, waits for RECV_F0.3@1", 15)],
            "no progress for 14 s: rank 0 in the measured step: stage 0, waits for RECV_B0.2@0; "
            "rank 1 in the measured step: stage 1, waits for RECV_F0.3@1",
        ),
        (
            [note(""), note("")],
            "no progress for 14 s: rank 0 in the measured step; rank 1 in the measured step",
        ),
        (
            [note("stage 0, waits for RECV_B0.2@0", 2), note("stage 1, F0.3@1", 1)],
            "still moving: rank 1 in the measured step: stage 1, F0.3@1",
        ),
        ([None, None], ""),
        (
            [note("F0.0@0"), note("F0.0@0, stopped by a signal")],
            "rank 1 hung in the measured step: F0.0@0, stopped by a signal (no progress for 14 s)",
        ),
        (
            [note("waits for RECV_B0.2@0", 1), note("waits for SEND, stopped by a signal", 1)],
            "rank 1 hung in the measured step: waits for SEND, stopped by a signal "
            "(rank 0 waits for RECV_B0.2@0; no progress for 1 s)",
        ),
    ],
    ids=[
        *("one hangs", "one never came", "all wait", "none waits", "slow", "no notes"),
        *("stopped", "stopped as it waits"),
    ],
)
def test_hang_reason(notes: list[Note | None], words: str) -> None:
    assert hang_reason(notes, MEASURED_NS, limit_seconds=20) == words


def test_many_ranks_are_counted() -> None:
    notes = [note("stage 1, F0.3@1"), *(note(f"waits for RECV_F0.{rank}@0") for rank in range(9))]
    words = hang_reason(notes, MEASURED_NS, limit_seconds=20)
    assert words.startswith("rank 0 hung in the measured step: stage 1, F0.3@1 (rank 1 waits")
    assert "rank 4 waits for RECV_F0.3@0, 5 more" in words
    assert "rank 5" not in words


def test_at_the_time_limit_the_reason_ends_with_hang_reason(tmp_path: Path) -> None:
    outcome = verdict.out_of_time(tmp_path, 2, 20.0, 3)
    assert outcome.status == "timeout"
    assert outcome.reason == "no end after 20 s, 3 steps done; stopped"
    ranks_at(tmp_path, "stage 0, waits for RECV_B0.2@0", "stage 1, F0.3@1")
    reason = verdict.out_of_time(tmp_path, 2, 0.0, 3).reason
    assert reason.startswith("no end after 0 s, 3 steps done; stopped; rank 1 hung in the measured")


def test_a_stopped_rank_is_marked_in_its_note(tmp_path: Path) -> None:
    ranks_at(tmp_path, "F0.0@0", "")
    before = read_notes(tmp_path, 2)
    for _ in range(2):
        mark_stopped(tmp_path, [0, 1, 2])
    assert (tmp_path / file_name(0)).stat().st_size == NOTE_BYTES
    after = read_notes(tmp_path, 3)
    assert [each.doing for each in after if each] == ["F0.0@0, stopped by a signal", STOPPED]
    assert [each.time_ns for each in after if each] == [each.time_ns for each in before if each]
    assert after[2] is None


def test_stopped_ranks_are_found_among_the_processes_of_a_launch() -> None:
    """Rank 1 alone is stopped; both are children of the launching process."""
    sleep = "import time; time.sleep(60)"
    script = (
        "import os, signal, subprocess, sys\n"
        "ranks = [subprocess.Popen([sys.executable, '-c', sys.argv[1]],"
        " env={**os.environ, 'RANK': str(rank)}) for rank in range(2)]\n"
        "os.kill(ranks[1].pid, signal.SIGSTOP)\n"
        "print(flush=True)\n"
        "ranks[0].wait()\n"
    )
    tree = processes.start([sys.executable, "-c", script, sleep], {})
    try:
        assert tree.process.stdout is not None
        tree.process.stdout.readline()
        until(lambda: tree.stopped_ranks() == [1])
    finally:
        tree.stop()
    assert tree.stopped_ranks() == []


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
