"""Launches in turn: a killed command leaves none that waits, a finished one no pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.environment import import_path
from benchmarks.records import record as records

pytestmark = pytest.mark.slow

COMMAND = ("run", "mini-cpu", "--systems", "native,sppo", "--launches", "1", "--no-wandb")
STEPS = ("--measured-steps", "3", "--warmup-steps", "0", "--budget", "0")
SECONDS = 600.0


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *arguments],
        env={**os.environ, **import_path()},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Ranks and their parents: a job of this folder is on their command lines."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(word.startswith(f"{folder}{os.sep}") for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def measured(folder: Path) -> bool:
    """Whether the second row has taken a measured step, so that the first one waits again."""
    logs = [path.read_text(errors="replace") for path in folder.glob("*/sppo-1/log.txt")]
    return any('"phase":"measured"' in text for text in logs)


def test_a_killed_command_leaves_no_launch_that_waits(tmp_path: Path) -> None:
    process = start(*COMMAND, "--measured-steps", "400", "--output", str(tmp_path))
    try:
        assert until(lambda: measured(tmp_path))
        assert len({word for p in processes_of(tmp_path) for word in p.cmdline()[-1:]}) == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert until(lambda: processes_of(tmp_path) == [])


def test_rows_in_turn_share_a_round_and_leave_no_pipe(tmp_path: Path) -> None:
    assert start(*COMMAND, *STEPS, "--output", str(tmp_path)).wait(SECONDS) == 0
    (folder,) = tmp_path.iterdir()
    done = {record.row: record for record in records.read_all(folder)}
    assert done["PyTorch native"].round == done["SPPO"].round is not None
    assert done["Reference"].round is None
    assert [len(done[row].steps) for row in ("PyTorch native", "SPPO")] == [5, 5]
    assert not list(folder.glob("*/turn"))
