"""Launches whose ranks are forked from this process, which has imported torch: a third of the time.

Each rank is a process of its own and runs the worker's `main`, as under torchrun. This process must
compute with one thread, and must be strict with freed memory from its beginning, as a rank is.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from benchmarks.job import Job
from benchmarks.launch.ranks import ends as rank_ends
from benchmarks.launch.ranks.ends import RankEnd
from benchmarks.launch.ranks.outcome import Outcome, judge, out_of_time
from benchmarks.launch.ranks.processes import LaunchOptions
from benchmarks.records import store
from benchmarks.worker import device, rank


def prepare() -> None:
    """Before anything else: what a rank does first."""
    import torch

    device.strict_allocator()
    torch.set_num_threads(1)


def launch(job: Job, options: LaunchOptions) -> Outcome:
    """In place of `processes.launch`. Progress goes to the log."""
    directory = Path(job.output_directory)
    job_path = store.save(directory / "job.json", job)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = {}
    for number in range(job.ranks):
        process = os.fork()
        if process == 0:
            _run_rank(job_path, number, job.ranks, port, options.environment)
        running[process] = number
    codes = []
    deadline = time.monotonic() + options.time_limit_seconds
    while running:
        for process in list(running):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                codes.append(os.waitstatus_to_exitcode(status))
                end = RankEnd(rank=running.pop(process), code=codes[-1], time_ns=time.time_ns())
                rank_ends.append(directory / rank_ends.FILE_NAME, end)
        if running and (time.monotonic() > deadline or any(codes)):
            time.sleep(1.0)  # for the words of the others
            for process in running:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            if not any(codes):
                return out_of_time(directory, job.ranks, options.time_limit_seconds, 0)
            break
        time.sleep(0.02)
    return judge(directory, job.ranks, max(map(abs, codes), default=0))


def _run_rank(
    job_path: Path, number: int, ranks: int, port: int, environment: Mapping[str, str]
) -> NoReturn:
    code = 1
    try:
        log = os.open(job_path.with_name("log.txt"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ |= {
            **environment,
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        sys.argv = ["rank", str(job_path)]
        rank.main()
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)
