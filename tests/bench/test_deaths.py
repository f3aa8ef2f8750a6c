"""A rank of a real SPPO launch dies or hangs: all end in time, and one line says who and where."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from baselines.sppo import ADAPTER, SppoSettings
from benchmarks.launch import preparing, run
from benchmarks.launch.options import Options
from benchmarks.launch.progress import Lines
from benchmarks.launch.ranks import processes
from benchmarks.records.record import Record
from benchmarks.rows.assign import with_settings
from benchmarks.rows.row import Row
from tests.bench.test_supervisor import WORKLOAD, processes_left

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REAL_COMMAND = processes.command
SETTINGS = SppoSettings(subsequences=4, virtual_stages=1, msp=False, policy="no-offload")


@dataclass(frozen=True, kw_only=True)
class Ended:
    record: Record
    seconds: float
    left: list[int]


def launch(
    folder: Path, interference: str, limit_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> Ended:
    """One launch in which a rank sends itself a signal."""
    script = str(Path(__file__).with_name("interfered_worker.py"))

    def command(*arguments: Any) -> list[str]:
        line = REAL_COMMAND(*arguments)
        return [*line[:-3], script, line[-1]]

    monkeypatch.setattr(processes, "command", command)
    monkeypatch.setenv("INTERFERE", interference)
    options = Options(
        launches=1, warmup_steps=0, measured_steps=2, time_limit_seconds=limit_seconds
    )
    made = preparing.prepare(WORKLOAD, options, run.new_directory(folder, WORKLOAD.name))
    row = Row(label="SPPO", system="sppo", choosing="planned")
    start = time.monotonic()
    try:
        record = run.launch_row(
            made, with_settings(row, ADAPTER, SETTINGS, grid=""), 1, options, Lines()
        )
    finally:
        preparing.remove_inputs(made)
    return Ended(record=record, seconds=time.monotonic() - start, left=processes_left(folder))


def test_a_rank_that_is_killed_in_a_step_ends_all_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second F0.1@1 is the accounted step's: the short first step has the same name."""
    ended = launch(tmp_path, "1 SIGKILL F0.1@1 2", 120.0, monkeypatch)
    assert ended.record.status == "failed"
    assert ended.record.reason == "rank 1 died (SIGKILL) in the accounted step: stage 1, F0.1@1"
    assert ended.left == []


@pytest.mark.soak
def test_a_rank_that_hangs_in_a_step_ends_all_at_the_limit_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short first step has two subsequences only: the second F0.2@1 is a measured step's.

    On a busy machine the ranks come to that step, and stay there, only under a longer limit.
    """
    for limit_seconds in (20, 60, 180):
        ended = launch(tmp_path, "1 SIGSTOP F0.2@1 2", limit_seconds, monkeypatch)
        assert ended.record.status == "timeout"
        assert limit_seconds <= ended.seconds
        assert ended.left == []
        if "hung" in ended.record.reason:
            break
    hung = "rank 1 hung in the measured step: stage 1, F0.2@1, stopped by a signal"
    who = f"{hung} (rank 0 waits for RECV_B0.3@0; "
    words = f"no end after {limit_seconds} s, 2 steps done; stopped; {who}"
    assert ended.record.reason.startswith(words)
