"""Launches without processes: commands run in seconds, and may be killed at any moment."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks import environment
from benchmarks.cli import main
from benchmarks.emulation import cache
from benchmarks.job import Job, Memory, RankReport, StepReport
from benchmarks.launch import planned, preparing, run
from benchmarks.launch.machine import watch
from benchmarks.launch.ranks.outcome import Outcome
from benchmarks.launch.ranks.processes import LaunchOptions
from benchmarks.launch.time_limits import FLOOR_SECONDS
from benchmarks.paper import reported
from benchmarks.records import store
from benchmarks.records.record import Peak, Text
from benchmarks.reporting import bar_chart
from benchmarks.rows import known_grids
from benchmarks.studies import sweep_figure
from sppo.config.sizes import MIB
from sppo.config.workload import Workload

TOKEN_BYTES = 1024
"""Bytes of a token on a device: a length fits a limit, or does not."""

IMPORTED_FIRST = (cache, known_grids, reported)
"""They bind names that `scripted` patches. Imported inside, they would keep the patch for ever."""

Moment = Callable[[str], None]
"""Called at every moment at which a command may be killed, with the moment's name."""


def reports(job: Job) -> list[RankReport]:
    """What the ranks of a launch report: seconds by row and launch, the same losses for all."""
    seconds = 0.25 + (len(job.row) + job.launch) / 100
    steps = [
        StepReport(
            phase=phase,
            tokens=64 if phase == "throw-away" else job.workload.tokens_per_step,
            seconds=seconds,
            loss=5.5 - number / 4,
            grad_norm=1.0,
        )
        for number, phase in enumerate(job.phases)
    ]
    memory = Memory(
        tracked_peak_bytes=TOKEN_BYTES * job.workload.sequence_tokens + MIB,
        tracked_live_before_bytes=MIB,
    )
    return [
        RankReport(rank=rank, steps=steps, memory=memory, accounted=None, environment={})
        for rank in range(job.ranks)
    ]


def scripted_launch(log: Path, moment: Moment) -> Callable[[Job, LaunchOptions], Outcome]:
    """A launcher that notes every launch in `log`. Other nodes begin and end as always."""

    def launch(job: Job, options: LaunchOptions) -> Outcome:
        assert Path(job.weights_path).stat().st_size
        assert Path(job.tokens_path).stat().st_size
        assert options.time_limit_seconds >= FLOOR_SECONDS, "derived in every command"
        assert job.message_timeout_seconds >= options.time_limit_seconds, "ranks wait as long"
        folder = Path(job.output_directory)
        store.save(folder / "job.json", job)
        with log.open("a") as stream:
            stream.write(f"{folder.parent.name}/{folder.name}\n")
        moment("launch")
        options.team.begin(job, options.environment, options.time_limit_seconds)
        assert not options.team.finish(0)
        options.team.require_all()
        limit = job.workload.device_memory_bytes
        if limit is not None and TOKEN_BYTES * job.workload.sequence_tokens + MIB > limit:
            return Outcome(status="oom", reason="no memory", reports=[])
        return Outcome(status="ok", reason="", reports=reports(job))

    return launch


def write_tokens(workload: Workload, options: run.Options, path: Path) -> Text:
    """Tokens of no text: to list the standard library takes longer than all the rest."""
    np.save(path, np.zeros((options.steps, workload.sequence_tokens), dtype=np.int64))
    return Text(description="zeros", sha256=f"{workload.tokens_per_step}")


def no_counters() -> None:
    """The verdict on scripted times must not depend on this machine's load."""
    raise OSError


def draw_nothing(*about: object) -> None:
    """Figures take long too."""


@contextmanager
def scripted(folder: Path, moment: Moment = lambda name: None) -> Iterator[None]:
    """All launches are scripted, and published results go to a folder. `moment` sees all writes."""
    write = store.write_bytes

    def write_bytes(path: Path, *parts: bytes) -> None:
        moment(f"before {path.name}")
        write(path, *parts)
        moment(f"after {path.name}")

    peak = Peak(flops_per_second=1e11, source="a test", kind="measured")
    with ExitStack() as stack:
        for target, name, value in (
            (planned, "launch", scripted_launch(folder / "launches.txt", moment)),
            (store, "write_bytes", write_bytes),
            (store, "published_directory", lambda: folder / "published"),
            (preparing, "write_tokens", write_tokens),
            (preparing, "steady_peak", lambda threads: peak),
            (watch, "read_kernel", lambda threads: None),
            (watch, "read_counters", no_counters),
            (bar_chart, "bar_chart", draw_nothing),
            (sweep_figure, "line_chart", draw_nothing),
            (environment, "git_state", lambda root: ("a" * 40, False)),
            (os, "fsync", lambda descriptor: None),
        ):
            stack.enter_context(patch.object(target, name, value))
        yield


def killed_at(number: int, arguments: Sequence[str], folder: Path) -> bool:
    """Run a command in a child that kills itself with SIGKILL at its moment `number`, from 0.

    False where the command ended before.
    """
    child = os.fork()
    if child == 0:
        seen = 0

        def moment(name: str) -> None:
            nonlocal seen
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        status = 99
        try:
            with scripted(folder, moment):
                status = main(arguments)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.waitstatus_to_exitcode(status) == 0
    return False


def launches(folder: Path) -> list[str]:
    """The launches that began, in order: FOLDER/ROW-NUMBER."""
    log = folder / "launches.txt"
    return log.read_text().splitlines() if log.exists() else []
