"""A real run, killed while its ranks train, goes on. A rank that has outlived it is ended."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks.launch import resuming
from benchmarks.records import record as records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = ("run", "mini-cpu", "--systems", "sppo", "--launches", "1", "--measured-steps", "2")
PATIENCE_SECONDS = 400.0


def start(*arguments: str) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "benchmarks", *RUN, "--no-wandb", *arguments]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < end
        time.sleep(0.02)


def ranks_of(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if resuming._has_job_of(process, folder)]


@pytest.mark.soak
def test_a_run_killed_while_its_ranks_train_goes_on(tmp_path: Path) -> None:
    run = start("--output", str(tmp_path))
    try:
        wait_for(lambda: bool(list(tmp_path.glob("*/sppo-1/where-*"))), run)
    finally:
        run.kill()
        run.wait()
    (folder,) = tmp_path.iterdir()
    job = str(folder / "sppo-1" / "job.json")
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)", job])
    reference = folder / "reference-1" / records.FILE_NAME
    before = reference.read_bytes()
    resumed = start("--resume", str(folder))
    try:
        assert resumed.wait(PATIENCE_SECONDS) == 0
        assert orphan.wait(0) == -signal.SIGKILL
    finally:
        orphan.kill()
        orphan.wait()
    assert reference.read_bytes() == before
    assert [record.status for record in records.read_all(folder)] == ["ok", "ok"]
    assert ranks_of(folder) == []
    assert not (folder / "weights.pt").exists()
