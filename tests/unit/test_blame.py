"""A launch that ends badly names its first cause, by the times of errors and ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.job import RankError
from benchmarks.launch.ranks import ends as rank_ends
from benchmarks.launch.ranks import outcome as outcomes
from benchmarks.launch.ranks.ends import RankEnd, Stop
from benchmarks.worker.heartbeat import Heartbeat

MS_NS = 1_000_000
CLOSED = "Connection closed by peer"


def ranks_at(folder: Path, *doings: str, phase: str = "measured") -> None:
    for rank, doing in enumerate(doings):
        heartbeat = Heartbeat(rank, folder)
        heartbeat.enter(phase)
        heartbeat.note(doing)


def error(folder: Path, rank: int, message: str, ms: int, **changes: Any) -> None:
    values: dict[str, Any] = {"status": "failed", "phase": "measured", "time_ns": ms * MS_NS}
    record = RankError(rank=rank, message=message, traceback="", **(values | changes))
    (folder / f"error-{rank}.json").write_bytes(msgspec.json.encode(record))


def end(folder: Path, rank: int, code: int, ms: int, message: str = "") -> None:
    event = RankEnd(rank=rank, code=code, time_ns=ms * MS_NS, message=message)
    rank_ends.append(folder / rank_ends.FILE_NAME, event)


def stop(folder: Path, ms: int, signal: int = 0) -> None:
    rank_ends.append(folder / rank_ends.FILE_NAME, Stop(time_ns=ms * MS_NS, signal=signal))


def reason(folder: Path, ranks: int = 2, returncode: int = 1) -> str:
    outcome = outcomes.judge(folder, ranks, returncode)
    assert outcome.status == "failed"
    return outcome.reason


@pytest.mark.parametrize(
    ("code", "how"),
    [(-9, "SIGKILL"), (-11, "SIGSEGV"), (-15, "SIGTERM"), (-6, "SIGABRT"), (3, "exit code 3")],
)
def test_a_death_is_the_cause_and_its_peers_error_is_not(
    tmp_path: Path, code: int, how: str
) -> None:
    ranks_at(tmp_path, "stage 0, waits for RECV_B0.2@0", "stage 1, F0.3@1", phase="accounted")
    error(tmp_path, 0, CLOSED, 9, lost_peer=True)
    end(tmp_path, 1, code, 10)
    end(tmp_path, 0, 1, 12)
    stop(tmp_path, 90)
    assert reason(tmp_path) == f"rank 1 died ({how}) in the accounted step: stage 1, F0.3@1"


def test_a_death_whose_peers_were_stopped_before_an_error(tmp_path: Path) -> None:
    ranks_at(tmp_path, "stage 0, F0.0@0", "stage 1, F0.3@1", "stage 2, F0.0@2")
    end(tmp_path, 1, 3, 10)
    stop(tmp_path, 11)
    end(tmp_path, 0, -15, 12)
    end(tmp_path, 2, 1, 13)
    words = "rank 1 died (exit code 3) in the measured step: stage 1, F0.3@1"
    assert reason(tmp_path, ranks=3) == words


def test_an_abort_after_a_lost_peer_is_not_the_cause_whatever_was_seen_first(
    tmp_path: Path,
) -> None:
    """A busy machine may report the abort of a library before the death that led to the abort."""
    end(tmp_path, 0, -6, 100)
    end(tmp_path, 1, 3, 103)
    stop(tmp_path, 110)
    assert reason(tmp_path) == "rank 1 died (exit code 3)"


def test_an_abort_alone_is_the_cause(tmp_path: Path) -> None:
    end(tmp_path, 1, -6, 100)
    stop(tmp_path, 110)
    end(tmp_path, 0, -15, 111)
    assert reason(tmp_path) == "rank 1 died (SIGABRT)"


def test_an_error_of_unknown_words_close_to_a_kill_follows_from_the_kill(tmp_path: Path) -> None:
    error(tmp_path, 0, "the fabric is gone", 99)
    end(tmp_path, 1, -9, 100)
    end(tmp_path, 0, 1, 105)
    assert reason(tmp_path) == "rank 1 died (SIGKILL)"


def test_an_error_long_before_a_kill_is_the_cause(tmp_path: Path) -> None:
    error(tmp_path, 0, "a wrong shape", 99)
    end(tmp_path, 0, 1, 105)
    stop(tmp_path, 150)
    end(tmp_path, 1, -9, 30_150)
    assert reason(tmp_path) == "rank 0, measured: a wrong shape"


@pytest.mark.parametrize("code", [-6, -9, -11, -15, 1])
def test_an_error_comes_before_the_ends_that_follow(tmp_path: Path, code: int) -> None:
    error(tmp_path, 0, "a wrong shape", 99)
    end(tmp_path, 0, 1, 105)
    stop(tmp_path, 150)
    end(tmp_path, 1, code, 151)
    assert reason(tmp_path) == "rank 0, measured: a wrong shape"


def test_a_kill_that_was_seen_just_after_the_stop_was_its_reason(tmp_path: Path) -> None:
    """The peer saw the closed connection, and ended, before the kernel reported the death."""
    error(tmp_path, 0, CLOSED, 99, lost_peer=True)
    end(tmp_path, 0, 1, 100)
    stop(tmp_path, 101)
    end(tmp_path, 1, -9, 103)
    assert reason(tmp_path) == "rank 1 died (SIGKILL)"


def test_a_rank_that_ends_with_exit_code_0_and_no_word(tmp_path: Path) -> None:
    doings = ("stage 0, waits for RECV_B0.2@0", "stage 1, F0.3@1", "stage 2, waits for RECV_F0.3@2")
    ranks_at(tmp_path, *doings)
    end(tmp_path, 1, 0, 5)
    error(tmp_path, 0, CLOSED, 9, lost_peer=True)
    end(tmp_path, 0, 1, 10)
    stop(tmp_path, 11)
    end(tmp_path, 2, -15, 12)
    words = "rank 1 ended without an error in the measured step: stage 1, F0.3@1"
    assert reason(tmp_path, ranks=3) == words


def test_a_rank_that_hangs_until_its_peers_give_up(tmp_path: Path) -> None:
    """The end of the hanging rank is torchrun's own TERM."""
    ranks_at(tmp_path, "stage 0, waits for RECV_B0.2@0", "stage 1, F0.3@1")
    error(tmp_path, 0, "Timed out waiting 120000ms for recv", 9, lost_peer=True)
    end(tmp_path, 0, 1, 10)
    stop(tmp_path, 11)
    end(tmp_path, 1, -15, 12)
    assert reason(tmp_path) == "rank 1 did not answer in the measured step: stage 1, F0.3@1"


def test_an_error_of_a_ranks_own_comes_before_a_lost_peer(tmp_path: Path) -> None:
    ranks_at(tmp_path, "stage 0, waits for RECV_B0.2@0", "stage 1, F0.3@1")
    error(tmp_path, 0, CLOSED, 9, lost_peer=True)
    error(tmp_path, 1, "a wrong shape", 10)
    end(tmp_path, 0, 1, 11)
    assert reason(tmp_path) == "rank 1, measured, stage 1, F0.3@1: a wrong shape"


def test_where_all_ranks_lost_a_peer_the_first_error_is_named(tmp_path: Path) -> None:
    for rank in (0, 1):
        error(tmp_path, rank, CLOSED, 9 - rank, lost_peer=True)
    assert reason(tmp_path) == f"rank 1, measured: {CLOSED}"


def test_an_out_of_memory_stays_the_cause_where_a_peer_was_killed(tmp_path: Path) -> None:
    error(tmp_path, 0, "can't allocate memory", 9, status="oom")
    end(tmp_path, 1, -9, 10)
    assert outcomes.judge(tmp_path, 2, 1).status == "oom"


def test_an_error_before_the_ranks_own_error_file_is_elastics(tmp_path: Path) -> None:
    end(tmp_path, 1, 1, 10, message="OSError: No space left on device")
    assert reason(tmp_path) == "rank 1 died (exit code 1): OSError: No space left on device"


def test_a_program_that_fails_on_all_ranks_is_no_ranks_fault(tmp_path: Path) -> None:
    for rank in (0, 1):
        end(tmp_path, rank, 1, 10 + rank)
    assert reason(tmp_path).startswith("no report from rank 0, 1, exit code 1; see ")


def test_a_torchrun_that_is_ended_from_outside_is_named(tmp_path: Path) -> None:
    stop(tmp_path, 5, signal=15)
    for rank in (0, 1):
        end(tmp_path, rank, -15, 6 + rank)
    assert reason(tmp_path) == "torchrun was stopped by SIGTERM"


def test_a_torchrun_that_is_killed_is_named_and_not_its_ranks_lost_peers(tmp_path: Path) -> None:
    error(tmp_path, 0, CLOSED, 9, lost_peer=True)
    assert reason(tmp_path, returncode=-9) == "torchrun was killed by SIGKILL"


def test_a_damaged_line_is_left_out(tmp_path: Path) -> None:
    end(tmp_path, 1, -9, 5)
    with (tmp_path / rank_ends.FILE_NAME).open("ab") as stream:
        stream.write(b'{"what":"rank","ra')
    assert [event.time_ns for event in rank_ends.read(tmp_path)] == [5 * MS_NS]
