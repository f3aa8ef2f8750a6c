"""A rank that plays a part: no training, so that every ending of a launch is tested in seconds.

torchrun ... scripted_worker.py JOB.json        the part is settings["play"]
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from benchmarks.job import (
    PROGRESS_PREFIX,
    Job,
    Memory,
    Progress,
    RankError,
    RankReport,
    Status,
    StepReport,
)
from benchmarks.worker.heartbeat import Heartbeat
from benchmarks.worker.turns import Turns

LOSSES = (5.5, 5.25, 5.0, 4.75, 4.5, 4.25, 4.0, 3.75)


def main() -> None:
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    rank = int(os.environ["RANK"])
    folder = Path(job.output_directory)
    play = job.settings.get("play", "ok")
    if play in ("crash", "kill"):
        # Each rank ends by itself, however late: torchrun ends the others when the first is gone.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    steps = take_steps(job, rank, factor=1.001 if play == "other work" else 1.0)
    if play in ("oom", "host_oom", "infeasible", "unavailable"):
        end_badly(folder, rank, play, f"{play} at\nrank {rank}")
    elif play == "crash":
        wait_for(lambda: all((folder / f"pid-{other}").exists() for other in range(job.ranks)))
        raise RuntimeError("nobody caught this")
    elif play == "error":
        end_badly(folder, rank, "failed", "a wrong shape")
    elif play == "kill" and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif play == "kill":
        wait_for(lambda: is_gone(folder / "pid-1"))
        end_badly(folder, rank, "failed", "connection closed by peer")
    elif play == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    elif play == "silent" and rank == 1:
        return
    report = RankReport(rank=rank, steps=steps, memory=Memory(), accounted=None, environment={})
    (folder / f"rank-{rank}.json").write_bytes(msgspec.json.encode(report))


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Until the others have come so far."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def is_gone(pid_path: Path) -> bool:
    """Whether that rank has run and ended, reaped or not."""
    text = pid_path.read_text() if pid_path.exists() else ""
    if not text:
        return False
    try:
        return psutil.Process(int(text)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def take_steps(job: Job, rank: int, factor: float) -> list[StepReport]:
    """Steps that agree with everybody else's but for `factor`."""
    steps = []
    turns = None
    if job.turn_path is not None:
        turns = Turns(job, Heartbeat(rank, Path(job.output_directory)))
    for index, phase in enumerate(job.phases):
        if phase == "measured" and turns is not None:
            turns.wait()
        report = StepReport(
            phase=phase,
            tokens=64 if phase == "throw-away" else job.workload.tokens_per_step,
            seconds=0.25,
            loss=LOSSES[index] * factor,
            grad_norm=1.0,
        )
        steps.append(report)
        if rank == 0:
            progress = Progress(step=index, steps=len(job.phases), report=report)
            print(PROGRESS_PREFIX + msgspec.json.encode(progress).decode(), flush=True)
    return steps


def end_badly(folder: Path, rank: int, status: Status, message: str) -> None:
    """Rank 0 is first; the others' errors follow from it."""
    if rank:
        wait_for((folder / "error-0.json").exists)
    error = RankError(
        rank=rank,
        status=status if rank == 0 else "failed",
        message=message,
        traceback="",
        phase="measured",
        time_ns=time.time_ns(),
    )
    (folder / f"error-{rank}.json").write_bytes(msgspec.json.encode(error))
    os._exit(1)


if __name__ == "__main__":
    main()
