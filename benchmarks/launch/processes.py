"""One launch: torchrun in a session of its own, watched, and stopped as a family."""

from __future__ import annotations

import os
import selectors
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from benchmarks.environment import import_path
from benchmarks.job import PROGRESS_PREFIX, Job, Progress
from benchmarks.launch.outcome import Outcome, decode_progress, judge, out_of_time
from benchmarks.records import store

GRACE_SECONDS = 5.0
"""From TERM to KILL."""

GONE_SECONDS = 2.0
"""From KILL until nobody holds memory or ports of the launch any more."""

TICK_SECONDS = 0.5
"""How often a silent launch is looked at."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Where torchrun meets: by itself on one node, at an endpoint ("host:port") on several."""

    count: int = 1
    rank: int = 0
    endpoint: str = ""


class OutOfTime(Exception):
    """The launch passed its own time limit."""


def command(job_path: Path, ranks: int, nodes: Nodes | None = None) -> list[str]:
    """The exact torchrun command of a launch; `ranks` over all nodes."""
    nodes = nodes or Nodes()
    torchrun = [sys.executable, "-m", "torch.distributed.run"]
    if nodes.count == 1:
        meeting = ["--standalone"]
    else:
        meeting = ["--nnodes", str(nodes.count), "--node-rank", str(nodes.rank)]
        meeting += ["--rdzv-backend", "c10d", "--rdzv-endpoint", nodes.endpoint]
    per_node = ["--nproc-per-node", str(ranks // nodes.count)]
    return [*torchrun, *meeting, *per_node, "-m", "benchmarks.worker.rank", str(job_path)]


def variables(threads: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What a launch's environment has besides ours.

    On CUDA memory that is limited or nearly full is lost to fragments least in growing segments:
    for every system alike, unless the user wants another allocator.
    """
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        **({} if _has_allocator() else {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
        **import_path(),
        **environment,
    }


def _has_allocator() -> bool:
    """Whether the user has said how CUDA memory is taken, by either name."""
    return any(name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"))


def shell_line(arguments: list[str], environment: Mapping[str, str]) -> str:
    """The command as one would type it, its variables in front."""
    assignments = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*assignments, shlex.join(arguments)])


def launch(
    job: Job,
    *,
    environment: Mapping[str, str],
    time_limit_seconds: float,
    on_progress: Callable[[Progress], None],
    nodes: Nodes | None = None,
) -> Outcome:
    """Write job.json, run its ranks to their end or the time limit, and say how they ended.

    Whatever happens here, also an interrupt, no process of the launch is left behind.
    """
    directory = Path(job.output_directory)
    directory.mkdir(parents=True, exist_ok=True)
    job_path = directory / "job.json"
    store.write_bytes(job_path, store.to_json(job))
    process = subprocess.Popen(
        command(job_path, job.ranks, nodes),
        env={**os.environ, **variables(job.threads_per_rank, environment)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    family = _Family(process)
    deadline = time.monotonic() + time_limit_seconds
    try:
        _watch(process, directory / "log.txt", deadline, _noting(family, on_progress))
    except OutOfTime:
        return out_of_time(directory, job.ranks, time_limit_seconds, family.steps_done)
    finally:
        family.stop()
    return judge(directory, job.ranks, process.returncode)


class _Family:
    """torchrun and its ranks. Ranks live in sessions of their own, so the group alone won't do."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.members: set[psutil.Process] = set()
        self.steps_done = 0

    def note(self) -> None:
        """Remember who is there now: orphans cannot be found later."""
        try:
            self.members |= set(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.Error:
            return

    def stop(self) -> None:
        """TERM to the group (torchrun passes it on), KILL to whoever is left after the grace.

        Deaf to further interrupts meanwhile: an impatient second Ctrl-C would leave ranks behind.
        """
        with _undisturbed():
            self.note()
            if self.process.poll() is None:
                _signal_group(self.process.pid, signal.SIGTERM)
                try:
                    self.process.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    _signal_group(self.process.pid, signal.SIGKILL)
            for member in self.members:
                try:
                    member.kill()
                except psutil.Error:
                    continue
            self.process.wait()
            psutil.wait_procs(self.members, timeout=GONE_SECONDS)
            if self.process.stdout is not None:
                self.process.stdout.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore INT and TERM. Only the main thread gets them, and only there can they be set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _noting(family: _Family, on_progress: Callable[[Progress], None]) -> Callable[[bytes], None]:
    """A line reader: progress goes on, and its first line means that all ranks are there."""

    def read(line: bytes) -> None:
        text = line.decode("utf-8", "replace")
        if not text.startswith(PROGRESS_PREFIX):
            return
        try:
            progress = decode_progress(text.removeprefix(PROGRESS_PREFIX))
        except msgspec.DecodeError:
            return
        if family.steps_done == 0:
            family.note()
        family.steps_done = progress.step + 1
        on_progress(progress)

    return read


def _watch(
    process: subprocess.Popen[bytes],
    log_path: Path,
    deadline: float,
    read_line: Callable[[bytes], None],
) -> None:
    """Copy the output into the log until the launch ends. Raises OutOfTime. Sleeps in between."""
    assert process.stdout is not None
    pending = b""
    with log_path.open("wb") as log, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise OutOfTime
            if selector.select(min(remaining, TICK_SECONDS)):
                data = os.read(process.stdout.fileno(), 65_536)
                if not data:
                    break
                log.write(data)
                log.flush()
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    read_line(line)
            elif process.poll() is not None:
                return
    try:
        process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        raise OutOfTime from None
